"""The search, with a program in the place of train_w_kd.py whose accuracy is a known function of one key."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from registry import UserError
from studies import search, space

pytest.importorskip("optuna", reason="Optuna is not installed: pip install -e '.[search]'")

ROOT = pathlib.Path(__file__).parents[2]
# An epoch takes the seconds in SLOW. Validation top-1 is 10 * learning_rate * epoch / 5; test top-1 is 1 less.
PROGRAM = """
import json, os, pathlib, signal, sys, time
values = dict(a[9:].split("=") for a in sys.argv if a.startswith("--config."))
rate, folder = float(values["learning_rate"]), pathlib.Path(sys.argv[sys.argv.index("--train_path") + 1])
if rate > 9.5:
    print("Error: a number is not finite."); sys.exit(4)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
folder.mkdir(exist_ok=True)
log = folder / "metrics.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
(folder / f"started-{time.time_ns()}").write_text(str(done))
for epoch in range(done + 1, 6):
    time.sleep(float(os.environ["SLOW"]))
    if stop:
        sys.exit(75)
    with log.open("a") as out:
        out.write(json.dumps({"kind": "val", "epoch": epoch, "top1": 2 * rate * epoch}) + "\\n")
best = {"epoch": 5, "top1": 10 * rate - 1, "val/top1": 10 * rate}
summary = {"last": best, "best": best, "parameters": 1, "seconds": 1.0, "steps": 1}
(folder / "summary.json").write_text(json.dumps(summary))
"""
DIGITS = ["--dataset", "Digits", "--transfer", "Labels", "--val_split", "0.1"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts the program in the place of train_w_kd.py; returns the folder of the search."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(search, "PROGRAM", tmp_path / "program.py")
    monkeypatch.setattr(search, "POLL", 0.02)
    monkeypatch.setenv("SLOW", "0.01")
    return tmp_path / "search"


def worker(root: pathlib.Path, trials: int, slow: float, prune: bool = False) -> subprocess.Popen:
    """Starts a process that searches in `root`, beside this one."""
    code = (
        "import pathlib; from studies import search\n"
        f"search.PROGRAM, search.POLL = pathlib.Path({str(root.parent / 'program.py')!r}), 0.02\n"
        f"search.main(['learning_rate=0.1:9'], {trials}, {prune}, pathlib.Path({str(root)!r}), 0, {DIGITS!r})\n"
    )
    own = {**os.environ, "SLOW": str(slow)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True)


def wait_for(what, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_the_best_trial_is_chosen_on_validation_images(program, capsys):
    search.main(["learning_rate=0.1:9", "optimizer=choice:sgd,adamw"], 4, False, program, 0, DIGITS)
    text = (program / "search.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["trial", "best top-1, val", "learning_rate", "optimizer"]
    values = [float(row[1]) for row in rows[2:]]
    assert values == sorted(values, reverse=True)
    assert len(values) == 4
    assert f"{values[0]:.2f} %. On the test split, which chose nothing: {values[0] - 1:.2f} %" in text
    assert "--val_split 0.1 --config.learning_rate=" in text
    assert (program / "search.png").stat().st_size > 1000
    search.main(["learning_rate=0.1:9", "optimizer=choice:sgd,adamw"], 4, False, program, 0, DIGITS)  # only reports
    assert (program / "search.md").read_text() == text
    with pytest.raises(UserError, match="another space"):
        search.main(["learning_rate=0.1:8"], 4, False, program, 0, DIGITS)


@pytest.mark.slow
def test_a_trial_that_fails_is_counted_and_the_others_run(program):
    search.main(["learning_rate=0.1:100"], 5, False, program, 0, DIGITS)
    rows = [line for line in (program / "search.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 6
    assert any("| fail |" in row for row in rows)


@pytest.mark.slow
def test_two_processes_share_a_search_and_a_killed_ones_trial_is_continued(program):
    program.mkdir()
    slow = worker(program, 4, slow=0.4)
    wait_for(lambda: list(program.glob("trial-*/metrics.jsonl")))
    # the process and its trial die; another one finishes the trial from where it was
    children = subprocess.run(["pgrep", "-P", str(slow.pid)], capture_output=True, text=True).stdout.split()
    for process in (slow.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    slow.communicate()
    others = [worker(program, 4, slow=0.05) for _ in range(2)]
    printed = [other.communicate(timeout=120)[0] for other in others]
    assert all(other.returncode == 0 for other in others)
    trials = sorted(program.glob("trial-*/"))
    assert [trial.name for trial in trials] == [f"trial-000{i}" for i in range(4)]
    starts = sorted(trials[0].glob("started-*"))
    assert len(starts) == 2
    assert int(starts[1].read_text()) >= 1  # epochs that the first process had done
    assert all(len(list(trial.glob("started-*"))) == 1 for trial in trials[1:])
    assert all("Trial" in text for text in printed)
    rates = {json.loads((trial / "summary.json").read_text())["best"]["val/top1"] for trial in trials}
    assert len(rates) == 4


@pytest.mark.slow
def test_a_bad_trial_is_pruned(program, monkeypatch):
    found = search.Search(make(program), space.parse(["learning_rate=0.1:9"]), DIGITS, True, 0)
    for rate in (5.0, 6.0, 7.0, 8.0, 9.0, 0.2):  # the pruner compares from the sixth trial on
        found.study.enqueue_trial({"learning_rate": rate})
    monkeypatch.setenv("SLOW", "0.2")
    with search.asked_to_stop() as stopping:
        while (claimed := found.claim(6)) is not None:
            with claimed[1]:
                found.run(*claimed, stopping)
    states = [trial.state.name for trial in found.study.trials]
    assert states == ["COMPLETE"] * 5 + ["PRUNED"]
    assert len((program / "trial-0005" / "metrics.jsonl").read_text().splitlines()) < 5


def make(path):
    path.mkdir()
    return path


@pytest.mark.slow
def test_a_signal_saves_the_trial_and_the_same_command_goes_on(program):
    program.mkdir()
    process = worker(program, 2, slow=0.4)
    wait_for(lambda: list(program.glob("trial-*/metrics.jsonl")))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (program / "trial-0000" / "summary.json").exists()
    search.main(["learning_rate=0.1:9"], 2, False, program, 0, DIGITS)
    assert (program / "trial-0000" / "summary.json").exists()
    assert len(list((program / "trial-0000").glob("started-*"))) == 2


@pytest.mark.parametrize(
    ("spaces", "arguments", "message"),
    [
        (["learning_rate=0.1"], DIGITS, "LOW:HIGH"),
        (["learning_rate=0.2:0.1"], DIGITS, "less than"),
        (["learning_rate=log:0:1"], DIGITS, "above 0"),
        (["learning_rat=0.1:1"], DIGITS, "learning_rate"),
        (["learning_rate=0.1:1", "learning_rate=1:2"], DIGITS, "twice"),
        (["optimizer=choice:sgd"], DIGITS, "two or more"),
        (["optimizer=choice:sgd,sdg"], DIGITS, "sdg"),
        (["train_epoch=int:1.5:3"], DIGITS, "LOW:HIGH"),
        (["learning_rate=0.1:1"], DIGITS[:4], "--val_split"),
        (["learning_rate=0.1:1"], [*DIGITS, "--train_path", "x"], "--train_path out"),
        (["learning_rate=0.1:1"], [*DIGITS, "--trails", "3"], "--trails"),
    ],
)
def test_mistakes_are_told_before_a_trial_starts(spaces, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        search.main(spaces, 2, False, tmp_path / "search", 0, arguments)
    assert not (tmp_path / "search").exists()
