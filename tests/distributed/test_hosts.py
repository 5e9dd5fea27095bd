"""Two real processes of two devices each are one run."""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from same_curve import PATIENCE, RECIPE, STEPS, assert_same_curve, environment, rows

import data
import files
from configs import command
from registry import UserError

pytestmark = pytest.mark.slow
GLOO = re.compile(r"\[Gloo\]|connected peer ranks|^[\d\s.:]+$")
ROOT = pathlib.Path(__file__).parents[2]
BANK = {**RECIPE, "distiller": "SoftLogits", "distiller_options": {}, "train_epoch": 1, "teacher_views": 2, "seeds": 2}
BANK |= {"batch_size": 400, "log_every": 3}


def start(folder, recipe=RECIPE, own=((), ())):
    """The command line, as one process for each of `own`, their own flags, on a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = []
    for key, value in {**recipe, "train_path": folder}.items():
        several = value.items() if isinstance(value, dict) else ()
        flags += [f"--config.{key}.{k}={v}" for k, v in several] or ([] if value == {} else [f"--config.{key}={value}"])
    return [
        subprocess.Popen(
            [sys.executable, "train_w_kd.py", "--hosts", f"localhost:{port},{len(own)},{number}", *flags, *more],
            cwd=ROOT,
            env={**environment(), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, more in enumerate(own)
    ]


def finish(processes, code=0):
    """What each printed, without gloo's own lines, which two threads of it may write into each other."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(outputs)
    return ["\n".join(line for line in text.splitlines() if line and not GLOO.search(line)) for text in outputs]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders: the run of two processes, stopped on its way by a signal to both, and gone on with to its end."""
    folder = tmp_path_factory.mktemp("hosts")
    processes = start(folder / "run")
    end = time.monotonic() + PATIENCE
    while not any((folder / "run" / "checkpoints" / str(step)).exists() for step in range(4, STEPS)):
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < end, "stuck"
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    stopped = finish(processes, 75)
    shutil.copytree(folder / "run", folder / "stopped")
    return folder, stopped, finish(start(folder / "run"))


@pytest.fixture(scope="module")
def one(two, tmp_path_factory, on_devices):
    """Folders of one device: the whole run, the stopped one of two processes gone on with, and replicas with a bank."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(two[0] / "stopped", folder / "again")
    recipes = {"run": RECIPE, "again": RECIPE, "bank": BANK}
    on_devices(1, *({"train": {**recipe, "train_path": str(folder / name)}} for name, recipe in recipes.items()))
    return folder


def test_a_signal_to_both_ends_both_with_75_and_the_same_command_goes_on(two):
    folder, stopped, finished = two
    steps = [row["step"] for row in rows(folder / "stopped")]
    assert f"Interrupted at step {steps[-1]}; saved in" in stopped[0]
    assert steps[-1] < STEPS
    assert f"Continuing at step {steps[-1]} of {STEPS}." in finished[0]


def test_two_processes_learn_as_one_device_does(two, one):
    assert_same_curve(two[0] / "run", one / "run")


def test_two_processes_stream_their_own_rows(tmp_path, one):
    finish(start(tmp_path / "run", {**RECIPE, "loading": "stream"}))
    assert_same_curve(tmp_path / "run", one / "run")


def test_a_picture_that_one_process_cannot_read_ends_both(tmp_path):
    root = tmp_path / "tiny"
    train = [root / f"train/{wnid}/images/{wnid}_{i:02}.JPEG" for wnid in ("n01", "n02") for i in range(12)]
    for path in (*train, root / "val/images/0.JPEG"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)
    (root / "val/val_annotations.txt").write_text("0.JPEG\tn01\n")
    index, _ = data.Plans(0, np.arange(24, dtype=np.int32), 3, 3, 8)(0)
    bad = train[index[2][6]]  # the second half of a batch is process 1's
    bad.write_bytes(b"no picture")
    recipe = {"dataset": "TinyImageNet", "data_dir": root, "image_size": 8, "loading": "stream", "transfer": "Labels"}
    recipe |= {"student_arch": "CNN", "batch_size": 8, "train_epoch": 1}
    outputs = finish(start(tmp_path / "run", recipe), 3)
    assert f"Error: process 1 of 2: TinyImageNet: 1 of 4 pictures cannot be read:\n  {bad} (no picture" in outputs[0]
    assert outputs[1] == ""
    assert not (tmp_path / "run/summary.json").exists()


def test_there_is_one_writer(two):
    folder, stopped, finished = two
    assert "Devices: 4 x cpu" in stopped[0]
    assert "Test top-1" in finished[0]
    assert stopped[1] == finished[1] == ""
    assert len(list((folder / "run" / "tensorboard").iterdir())) == 2  # one for each start
    found = rows(folder / "run")
    assert [row["step"] for row in found if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in found if row["kind"] == "test"] == [STEPS // 2, STEPS]
    environment = json.loads((folder / "run" / "env.json").read_text())
    assert (environment["processes"], len(environment["devices"])) == (2, 4)


def test_checkpoint_of_two_processes_goes_on_in_one(two, one):
    assert len(rows(two[0] / "stopped")) < len(rows(one / "run"))
    assert_same_curve(one / "again", one / "run")


def test_a_refused_folder_ends_both_at_once(tmp_path):
    with files.lock(tmp_path / "run"):
        outputs = finish(start(tmp_path / "run"), 2)
    assert "run is being written by process" in outputs[0]
    assert outputs[1] == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == [files.LOCK]


def test_processes_with_different_commands_are_refused(tmp_path):
    outputs = finish(start(tmp_path / "run", own=((), ("--seed", "1"))), 2)
    assert "Processes 0 and 1 do not have the same config, data and teacher." in outputs[0]
    assert not (tmp_path / "run").exists()


def test_replicas_with_a_bank_in_two_processes(tmp_path, one):
    outputs = finish(start(tmp_path / "two", {**BANK, "stack_seeds": "yes"}))
    assert "Teacher bank: 2 views of 1,200 images" in outputs[0]
    assert outputs[1] == ""
    assert list((one / "bank").rglob("teacher_bank"))
    assert not list((tmp_path / "two").rglob("teacher_bank"))
    assert_same_curve(tmp_path / "two", one / "bank", ("s0", "s1"))


MISTAKES = ("node0", "node0:1234", "node0:1234,2", "node0:1234,2,2", "node0,2,0", "two")


@pytest.mark.parametrize("text", MISTAKES)
def test_another_form_is_told(text):
    with pytest.raises(UserError, match=re.escape(f"got '{text}'")):
        command._join_hosts(text)


def test_auto_without_a_cluster_is_told(tmp_path):
    line = [sys.executable, "train_teacher.py", "--hosts", "auto", "--train_path", str(tmp_path / "run")]
    ended = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-2].startswith("Error: --hosts auto: ")
    assert "HOST:PORT,COUNT,ID" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
