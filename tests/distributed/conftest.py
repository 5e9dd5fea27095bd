"""Processes with many virtual devices, and the runs that several tests compare."""

import json
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from same_curve import DETECTOR, PATIENCE, RECIPE, STOPPED, STRONG, environment

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def on_devices():
    """(count, jobs of `many_devices.py`) -> their results."""

    def run(count, *jobs, **variables):
        command = [sys.executable, "-W", "error", str(HERE / "many_devices.py"), str(count), json.dumps(jobs)]
        env = {**environment(), **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, env=env)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory, on_devices):
    """Devices -> what one process of so many made.

    - `order`: the order of the examples.
    - `folder`: the run; on 8 devices stopped on its way.
    - `again`: the stopped run of 8 devices, continued on so many.
    - `notes`: what `many_devices.Watched` noted of the run; on 2 devices, of the replicas.
    - `replicas`: two seeds; on 2 devices in one program with loops, as on a GPU.
    - `strong`, on 1 and 2 devices: a run with dropout and what strong recipes add.
    - `detector`, on 1 and 2 devices: a detector on labels.
    - `alone`, on 2 devices: what each device does by itself.
    - `groups`, on 2 devices: `many_devices.groups`.
    """
    root, found = tmp_path_factory.mktemp("devices"), {}
    seeds = {**RECIPE, "train_epoch": 1, "batch_size": 400, "log_every": 3, "seeds": 2}
    fast = {"stack_seeds": "yes", "steps_per_call": "2"}

    def job(name, recipe=RECIPE, **more):
        return {"train": {**recipe, "train_path": str(root / name)}, **more}

    def note(count, **facts):
        found.setdefault(count, types.SimpleNamespace()).__dict__.update(facts)

    order, notes = on_devices(8, {"order": {}}, job("on8", stop_at=STOPPED - 1))
    note(8, order=order, notes=notes, folder=root / "on8", again=root / "again8")
    for count in (1, 2, 8):
        shutil.copytree(root / "on8", root / f"again{count}")
    jobs = {"order": {}}, job("on1"), job("again1"), job("seeds1", seeds), job("strong1", STRONG)
    jobs += (job("detector1", DETECTOR),)
    order, notes, *_ = on_devices(1, *jobs)
    note(1, order=order, notes=notes, folder=root / "on1", again=root / "again1", replicas=root / "seeds1")
    each = {**RECIPE, "distiller": "SoftLogits", "distiller_options": {}, "train_path": str(root / "alone")}
    jobs = (
        {"order": {}},
        {"alone": each},
        {"groups": each},
        job("again2"),
        job("strong2", STRONG),
        job("detector2", DETECTOR),
    )
    order, alone, groups, *_, notes = on_devices(2, *jobs, job("seeds2", {**seeds, **fast}))
    for count in (1, 2):
        note(count, strong=root / f"strong{count}", detector=root / f"detector{count}")
    note(2, order=order, alone=alone, groups=groups, again=root / "again2", replicas=root / "seeds2", notes=notes)
    on_devices(8, job("again8"))
    return found
