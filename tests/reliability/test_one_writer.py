"""A run folder has one writer; one that died does not count."""

import os
import platform
import signal
import subprocess
import sys

import pytest
from real_process import ROOT

import files
import train_teacher
import train_w_kd
from configs.resolve import resolve
from files import LOCK
from registry import UserError
from training import run_folder
from training import train as page

HOLD = "import pathlib, sys, time; import files; "
HOLD += "held = files.lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def holder(tmp_path_factory):
    """A process that holds the lock of a run folder, and the folder."""
    folder = tmp_path_factory.mktemp("held") / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, folder
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_second_process_exits_with_2_and_names_the_first(holder):
    process, folder = holder
    command = [sys.executable, ROOT / "train_w_kd.py", "--train_path", folder]
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is being written by process {process.pid} on {platform.node()}." in second.stderr
    assert second.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [LOCK]


@pytest.mark.parametrize(
    ("parse", "name"),
    [(train_w_kd.parse, "digits-resnet8-offline-softlogits-s0"), (train_teacher.parse, "digits-resnet20-labels-s0")],
)
@pytest.mark.parametrize("given", [True, False], ids=["given", "default"])
def test_the_folder_is_looked_at_before_anything_slow(given, parse, name, holder, tmp_path, monkeypatch):
    """The folder of `--train_path`, and the one that the command chooses by itself."""
    process, folder = holder
    argv = ["--train_path", str(folder)] if given else []
    if not given:
        chosen = resolve(parse([]).recipe)[0].train_path
        assert chosen == f"runs/{name}"
        (tmp_path / "runs").mkdir()
        (tmp_path / chosen).symlink_to(folder)
        (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
        monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "Builder", None)
    with pytest.raises(UserError, match=f"process {process.pid} "):
        page.train(parse(argv).recipe, quiet=True)


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    folder = tmp_path / "run"
    writer = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {writer.pid} "):
        files.lock(folder)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert str(writer.pid) in (folder / LOCK).read_text()
    files.refuse_second(folder)
    with files.lock(folder):
        assert (folder / LOCK).read_text() == f"process {os.getpid()} on {platform.node()}\n"
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            files.refuse_second(folder)


def test_folder_whose_making_was_killed_is_free(tmp_path):
    for name in (LOCK, "config.json.part"):
        (tmp_path / name).write_text("{")
    config = {"seed": 0, "data": "", "teacher_sha256": None}
    with run_folder.open_run(tmp_path, config):
        assert run_folder.read_json(tmp_path / "config.json") == config


def test_looking_makes_nothing(tmp_path):
    files.refuse_second(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
