"""Processes with many virtual devices, and the runs that several tests compare."""

import functools
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
    """Number of devices -> folder, notes and order of the run on them, made once. The run on 4 devices is stopped."""
    folder = tmp_path_factory.mktemp("devices")

    @functools.cache
    def run(count):
        path = folder / f"on{count}"
        train = {"train": {**RECIPE, "train_path": str(path)}, **({"stop_at": STOPPED - 1} if count == 4 else {})}
        order, notes = on_devices(count, {"order": {}}, train)
        return types.SimpleNamespace(folder=path, order=order, notes=notes)

    return run


@pytest.fixture(scope="session")
def two_devices(tmp_path_factory, on_devices):
    """The order on two devices, and the result of each of the two alone."""
    recipe = {**RECIPE, "distiller": "SoftLogits", "distiller_options": {}}
    recipe["train_path"] = str(tmp_path_factory.mktemp("alone"))
    order, alone = on_devices(2, {"order": {}}, {"alone": recipe})
    return types.SimpleNamespace(order=order, alone=alone)
