"""A run with a validation split: it chooses the best weights, and the test split is looked at once, at the end."""

import json
import signal

import pytest
import safetensors.numpy

import data
import pretrained
from configs.command import print_summary
from signals import Interrupted
from studies import compare, evaluation
from training.replica import Replica
from training.train import train

pytestmark = pytest.mark.slow

RUN = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 3, "batch_size": 100, "crop_pad": 1}
RUN |= {"checkpoint_seconds": 1e9, "val_split": 0.1, "keep_epochs": 2, "learning_rate": 0.2}
EPOCH = 10  # steps: 1,080 training images


def rows(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def contents(folder):
    names = ["metrics.jsonl", *(f"{name}/weights.safetensors" for name in ("last", "best", "epochs/0002"))]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder and its summary."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train({**RUN, "train_path": str(folder)}, quiet=True)


def test_validation_images_are_looked_at_every_epoch_and_test_images_once(finished):
    folder, summary = finished
    assert [row["epoch"] for row in rows(folder, "val")] == [1, 2, 3]
    (test,) = rows(folder, "test")
    assert (test["epoch"], test["step"]) == (3, 3 * EPOCH) == (3, summary["steps"])
    assert {"top1", "nll", "ece", "agreement"} <= test.keys()


def test_the_summary_has_both_splits_and_says_which_one_chose(finished):
    folder, summary = finished
    val, (test,) = rows(folder, "val"), rows(folder, "test")
    best = max(val, key=lambda row: row["top1"])
    assert summary["best_on"] == "val"
    assert (summary["last"]["epoch"], summary["best"]["epoch"]) == (3, best["epoch"])
    assert summary["last"]["top1"] == test["top1"]
    assert summary["last"]["val/top1"] == val[-1]["top1"]
    assert summary["best"]["val/top1"] == best["top1"]
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_the_weights_measure_as_the_summary_says(finished):
    folder, summary = finished
    for name in ("last", "best"):
        measured = evaluation.measure(str(folder / name), data.load("Digits"), RUN["teacher_param"])
        for key, value in measured.items():
            assert value == pytest.approx(summary[name][key], abs=1e-6)
        assert pretrained.load(folder / name).info["test_top1"] == summary[name]["top1"]
    kept = pretrained.load(folder / "epochs" / "0002").info
    assert (kept["test_top1"], kept["val_top1"]) == (None, rows(folder, "val")[1]["top1"])


def test_the_best_weights_are_those_that_validation_chose(finished):
    """Those of the epoch, and with another result on the validation images no others."""
    folder, summary = finished
    best = safetensors.numpy.load_file(folder / "best" / "weights.safetensors")
    same = {2: folder / "epochs" / "0002", 3: folder / "last"}.get(summary["best"]["epoch"])
    assert same is not None, "choose another seed: the first epoch should not be the best"
    for name, value in safetensors.numpy.load_file(same / "weights.safetensors").items():
        assert (best[name] == value).all(), name


@pytest.mark.parametrize(("call", "tested"), [(3, [1, 2]), (4, [1, 2, 3])])
def test_a_run_that_is_stopped_in_its_last_tests_ends_with_the_same_bits(call, tested, finished, tmp_path, monkeypatch):
    """Among the validation images of the last epoch, and among the test images."""
    answer, calls, recipe = Replica.answer, [], {**RUN, "train_path": str(tmp_path / "run")}

    def stopped(self, *arguments):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return answer(self, *arguments)

    monkeypatch.setattr(Replica, "answer", stopped)
    with pytest.raises(Interrupted):
        train(recipe, quiet=True)
    assert [row["epoch"] for row in rows(tmp_path / "run", "val")] == tested
    assert rows(tmp_path / "run", "test") == []
    summary = train(recipe, quiet=True)
    assert contents(tmp_path / "run") == contents(finished[0])
    assert (summary["last"], summary["best"]) == (finished[1]["last"], finished[1]["best"])


def test_the_split_does_not_depend_on_the_seed_and_each_seed_has_its_own_best(finished, tmp_path, capsys):
    recipe = {**RUN, "seed": 0, "seeds": 2, "train_epoch": 1, "keep_epochs": 0, "teacher_views": 1, "num_labels": 50}
    row = compare.run(tmp_path / "run", "SoftLogits", recipe, {})
    assert row.best_on == "val"
    assert [len(tests) for tests in row.tests] == [1, 1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best_on"] == "val"
    assert set(summary["last"]) == set(finished[1]["last"])
    print_summary(summary)
    out = capsys.readouterr().out
    assert "  | val top1 " in out
    assert "best " in out.splitlines()[-1]
    assert "chosen on validation images" in out.splitlines()[-1]
    assert "Teacher bank: 1 view of 1,080 images" in out
