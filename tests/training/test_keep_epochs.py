"""`keep_epochs`: the weights of a run's epochs."""

import json
import shutil

import pytest

import data
import pretrained
from registry import UserError
from studies import explaining
from training.train import train

pytestmark = pytest.mark.slow

RUN = {"student_arch": "CNN", "train_epoch": 3, "batch_size": 400, "teacher_param": "tests/teacher"}
RUN |= {"checkpoint_seconds": 1e9, "keep_epochs": 2}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run folder with the weights of every second epoch."""
    path = tmp_path_factory.mktemp("run") / "soft"
    train({**RUN, "train_path": str(path)}, quiet=True)
    return path


def test_weights_of_every_second_epoch_are_kept(kept):
    assert [p.name for p in (kept / "epochs").iterdir()] == ["0002"]
    weights = pretrained.load(kept / "epochs" / "0002")
    lines = map(json.loads, (kept / "metrics.jsonl").read_text().splitlines())
    (tested,) = [row for row in lines if row["kind"] == "test" and row["epoch"] == 2]
    assert weights.info["test_top1"] == tested["top1"]
    subject, test = explaining.subject_of(str(weights.folder), data.load("Digits"), "network"), data.load("Digits").test
    assert 100 * (subject.answers(test.images)[0].argmax(axis=1) == test.labels).mean() == pytest.approx(tested["top1"])
    assert subject.name == "epoch 2"


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_resumed_run_keeps_the_same_weights(step, kept, tmp_path, stopped_at):
    """Interrupted before, at and after the end of the second epoch (3 steps each)."""
    run = {**RUN, "train_path": str(tmp_path / "run")}
    with stopped_at(step):
        train(run, quiet=True)
    assert (tmp_path / "run" / "epochs").exists() == (step > 6)  # an epoch that was not tested yet is kept later
    train(run, quiet=True)
    for file in ("epochs/0002/weights.safetensors", "last/weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (kept / file).read_bytes()


def test_keeping_epochs_is_no_other_run(kept, tmp_path):
    """A finished run accepts another value."""
    shutil.copytree(kept, tmp_path / "run")
    summary = train({**RUN, "keep_epochs": 1, "train_path": str(tmp_path / "run")}, quiet=True)
    assert summary["steps"] == 9
    with pytest.raises(UserError, match="'keep_epochs' must not be negative"):
        train({**RUN, "keep_epochs": -1, "train_path": str(tmp_path / "other")}, quiet=True)
