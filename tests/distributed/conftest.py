"""Processes with many virtual devices, and the runs that several tests compare with."""

import json
import pathlib
import subprocess
import sys
import types

import pytest
from same_curve import PATIENCE, RECIPE, STOPPED, environment

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def on_devices():
    """(count, jobs of `many_devices.py`) -> their results."""

    def run(count, *jobs, **variables):
        command = [sys.executable, "-W", "error", str(HERE / "many_devices.py"), str(count), json.dumps(jobs)]
        env = {**environment(), **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory, on_devices):
    """Folders and notes: the whole run on 1 and on 8 devices, the run stopped on 4, and the order on 1, 4 and 8."""
    folder, found = tmp_path_factory.mktemp("devices"), types.SimpleNamespace(order={}, notes={})
    for count, stop in ((1, {}), (4, {"stop_at": STOPPED - 1}), (8, {})):
        path = folder / f"on{count}"
        setattr(found, f"on{count}", path)
        train = {"train": {**RECIPE, "train_path": str(path)}, **stop}
        found.order[count], found.notes[count] = on_devices(count, {"order": {}}, train)
    return found
