"""The sending of a run's numbers: what arrives, and that a tracker cannot disturb a run."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

import train_w_kd
from registry import UserError
from studies import tracking

ROOT = pathlib.Path(__file__).parents[2]
TRACKERS = '''
import json, os, pathlib, time


class Writes:
    """Writes what it gets to a file beside the run."""

    def __init__(self, project, name, identity, config, folder):
        self.path = pathlib.Path(folder).parent / "sent.jsonl"
        self.add({"name": name, "identity": identity, "arch": config["student_arch"]})

    def add(self, row):
        with self.path.open("a") as out:
            out.write(json.dumps(row) + "\\n")

    def log(self, values, step):
        self.add({"step": step, **values})

    def finish(self, summary):
        self.add({"summary": summary})


class Raises(Writes):
    def log(self, values, step):
        raise ValueError("the server said no")


class Hangs(Writes):
    def __init__(self, *_):
        time.sleep(600)
'''
RUN = ["--dataset", "Digits", "--transfer", "Labels", "--student_arch", "CNN", "--batch_size", "400"]
RUN += ["--train_epoch", "2", "--log_every", "3"]


@pytest.fixture
def trackers(tmp_path, monkeypatch):
    """Makes the module of trackers importable here and in other processes."""
    (tmp_path / "my_trackers.py").write_text(TRACKERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    yield
    sys.modules.pop("my_trackers", None)


def train(path, track):
    """Trains in a process of its own, as a user does; returns it when it has ended, and its seconds."""
    begun = time.monotonic()
    command = [sys.executable, "train_w_kd.py", *RUN, "--train_path", str(path), "--track", track]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return ran, time.monotonic() - begun


def write_run(path, rows, seeds=0):
    """Writes a run folder with these rows of numbers."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"data": "", "teacher_sha256": None, "student_arch": "CNN"}))
    for folder in [path / f"s{seed}" for seed in range(seeds)] or [path]:
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sent(tmp_path):
    return list(map(json.loads, (tmp_path / "sent.jsonl").read_text().splitlines()))


@pytest.mark.slow
def test_a_tracker_gets_every_number_of_a_run(trackers, tmp_path):
    ran, _ = train(tmp_path / "run", "my_trackers:Writes")
    assert ran.returncode == 0, ran.stderr
    first, *rows, last = sent(tmp_path)
    assert (first["name"], first["arch"]) == ("run", "CNN")
    written = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    expected = {(row["step"], f"{row['kind']}/top1", row["top1"]) for row in written}
    arrived = {(row["step"], key, row[key]) for row in rows for key in row if key.endswith("/top1")}
    assert arrived == expected
    assert last["summary"]["last/top1"] == written[-1]["top1"]


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["Raises", "Hangs"])
def test_a_tracker_that_fails_or_hangs_does_not_stop_a_run(tracker, trackers, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "GRACE", 0.5 if tracker == "Hangs" else 120)
    monkeypatch.setattr(train_w_kd.command, "prepare", lambda given: None)
    begun = time.monotonic()
    train_w_kd.main([*RUN, "--train_path", str(tmp_path / "run"), "--track", f"my_trackers:{tracker}"])
    assert (tmp_path / "run" / "summary.json").exists()
    assert time.monotonic() - begun < 60
    assert (tracker == "Hangs") == bool(tracking._late)
    for process in tracking._late:
        process.kill()
        process.wait()
    tracking._late.clear()


def test_a_run_that_continues_sends_what_is_new(trackers, tmp_path):
    rows = [{"kind": "train", "step": step, "epoch": 1.0, "loss": 1.0 / step} for step in (1, 2, 3)]
    write_run(tmp_path / "run", rows[:2])
    tracking.send(tmp_path / "run", "my_trackers:Writes", lambda: False)
    write_run(tmp_path / "run", rows[:1])  # stopped, and cut back to its checkpoint
    tracking.send(tmp_path / "run", "my_trackers:Writes", lambda: False)
    write_run(tmp_path / "run", rows)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as out:
        out.write('{"kind": "train", "st')  # a row that is being written
    tracking.send(tmp_path / "run", "my_trackers:Writes", lambda: False)
    found = sent(tmp_path)
    assert [row["step"] for row in found if "step" in row] == [1, 2, 3]
    assert len({row["identity"] for row in found if "identity" in row}) == 1


def test_seeds_have_names_of_their_own(trackers, tmp_path):
    write_run(tmp_path / "run", [{"kind": "test", "step": 4, "epoch": 1.0, "top1": 50.0}], seeds=2)
    tracking.send(tmp_path / "run", "my_trackers:Writes", lambda: False)
    (row,) = (row for row in sent(tmp_path) if "step" in row)
    assert row == {
        "step": 4,
        "s0/test/top1": 50.0,
        "s1/test/top1": 50.0,
        "s0/test/epoch": 1.0,
        "s1/test/epoch": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", "wandb"),
        ("no_such_module:Tracker", "no_such_module"),
        ("json:Tracker", "Tracker"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_before_the_training(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(train_w_kd.command, "prepare", lambda given: None)
    with pytest.raises(UserError, match=message):
        train_w_kd.main([*RUN, "--train_path", str(tmp_path / "run"), "--track", name])
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_run_is_told(trackers, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        tracking.send(tmp_path, "my_trackers:Writes", lambda: False)
