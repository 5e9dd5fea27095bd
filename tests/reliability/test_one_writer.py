"""A run folder has one writer; one that died does not count."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest
from real_process import ROOT

from registry import UserError
from training import lock, run, run_folder

HOLD = "import pathlib, sys, time; from training import lock; held = lock.acquire(pathlib.Path(sys.argv[1])); "
HOLD += "print('held', flush=True); time.sleep(600)"


@pytest.fixture
def writer(tmp_path):
    """A process that holds the lock of a run folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("program", ["train_w_kd.py", "train_teacher.py"])
@pytest.mark.parametrize("given", [True, False], ids=["given", "default"])
def test_second_process_exits_within_two_seconds_and_names_the_first(given, program, writer, tmp_path):
    folder = tmp_path / "run"
    if not given:  # the folder that the command chooses by itself
        name = "offline-softlogits" if program == "train_w_kd.py" else "labels"
        student = "resnet8" if program == "train_w_kd.py" else "resnet20"
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / f"digits-{student}-{name}-s0").symlink_to(folder)
    command = [sys.executable, ROOT / program, *(["--train_path", folder] if given else [])]
    start = time.monotonic()
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert time.monotonic() - start < 2
    assert second.returncode == 2
    assert f"is being written by process {writer.pid} on {platform.node()}." in second.stderr
    assert second.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [lock.FILE]


def test_lock_of_a_killed_process_is_taken_over(writer, tmp_path):
    with pytest.raises(UserError, match=f"process {writer.pid} "):
        lock.acquire(tmp_path / "run")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert str(writer.pid) in (tmp_path / "run" / lock.FILE).read_text()
    lock.refuse_second(tmp_path / "run")
    with lock.acquire(tmp_path / "run"):
        assert (tmp_path / "run" / lock.FILE).read_text() == f"process {os.getpid()} on {platform.node()}\n"
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            lock.refuse_second(tmp_path / "run")


def test_default_folder_is_looked_at_before_anything_slow(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "default_train_path", lambda config: str(tmp_path / "run"))
    monkeypatch.setattr(run.data, "load", None)
    with pytest.raises(UserError, match=f"process {writer.pid} "):
        run.train({}, quiet=True)


def test_folder_whose_making_was_killed_is_free(tmp_path):
    for name in (lock.FILE, "config.json.part"):
        (tmp_path / name).write_text("{")
    config = {"seed": 0, "data": "", "teacher_sha256": None}
    with run_folder.open_run(str(tmp_path), config):
        assert run_folder.read_json(tmp_path / "config.json") == config


def test_looking_makes_nothing(tmp_path):
    lock.refuse_second(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
