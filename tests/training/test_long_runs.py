"""What may change when a run continues, what the log says of the learning rate, and what a run warns of."""

import json

import numpy as np
import pytest

from configs.resolve import resolve
from registry import NonFiniteError, UserError
from training import replica
from training.answers import Answers
from training.train import train

pytestmark = pytest.mark.slow

SHORT = {"student_arch": "CNN", "teacher_param": "tests/teacher", "distiller": "SoftLogits", "batch_size": 400}
SHORT |= {"train_epoch": 2, "log_every": 1, "checkpoint_seconds": 1e9}
STEPS = 3  # in an epoch


def rows(folder, kind="train"):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def test_a_run_continues_with_other_times_between_lines_tests_and_saves(tmp_path, stopped_at):
    recipe = {**SHORT, "train_epoch": 4, "eval_every": 4, "train_path": str(tmp_path / "run")}
    with stopped_at(4):
        train(recipe, quiet=True)
    free = {"log_every": 2, "eval_every": 1, "on_nan": "skip", "keep_epochs": 2, "checkpoint_seconds": 0.0}
    train({**recipe, **free}, quiet=True)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows(tmp_path / "run", "test")] == [6, 9, 12]
    assert sorted(path.name for path in (tmp_path / "run" / "epochs").iterdir()) == ["0002", "0004"]


def test_a_run_grows_at_a_constant_rate_alone(tmp_path):
    constant = {**SHORT, "schedule": "constant", "train_path": str(tmp_path / "run")}
    train({**constant, "train_epoch": 1}, quiet=True)
    train(constant, quiet=True)
    train({**constant, "train_path": str(tmp_path / "whole")}, quiet=True)
    weights = [(tmp_path / name / "last" / "weights.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    with pytest.raises(UserError, match="A run cannot become shorter: use another --train_path"):
        train({**constant, "train_epoch": 1}, quiet=True)
    stepped = {**SHORT, "train_epoch": 1, "train_path": str(tmp_path / "stepped")}
    train(stepped, quiet=True)
    with pytest.raises(UserError) as raised:
        train({**stepped, "train_epoch": 3}, quiet=True)
    assert "train_epoch: 1 there, 3 now" in str(raised.value)
    assert "A step schedule depends on 'train_epoch': use another --train_path." in str(raised.value)


COSINE = [0.025 * (1 + np.cos(np.pi * step / 6)) for step in range(6)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "sgd"}, [0.05] * 4 + [5e-4, 5e-5]),  # two milestones, 3.75 and 4.5, fall on step 4
        ({"optimizer": "adamw", "schedule": "cosine"}, COSINE),
        ({"optimizer": "dot", "schedule": "cosine"}, COSINE),
        ({"schedule": "cosine", "ramp_epochs": 1.0}, [c * min((i + 1) / 3, 1) for i, c in enumerate(COSINE)]),
        (
            {
                "transfer": "BornAgain",
                "schedule": "cosine",
                "transfer_options": {"generations": 2},
                "teacher_param": "",
            },
            COSINE * 2,
        ),
    ],
    ids=["sgd", "adamw", "dot", "ramp", "BornAgain"],
)
def test_the_logged_learning_rate_is_the_schedules(options, expected, tmp_path):
    train({**SHORT, **options, "eval_every": 4, "train_path": str(tmp_path / "run")}, quiet=True)
    np.testing.assert_allclose([row["learning_rate"] for row in rows(tmp_path / "run")], expected, rtol=1e-6, atol=1e-9)


def test_drowned_labels_are_warned_of_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(replica, "PATIENCE", STEPS)
    recipe = {**SHORT, "distiller": "AT", "distiller_options": {"weight": 1e6}, "train_epoch": 4, "eval_every": 4}
    train({**recipe, "learning_rate": 1e-6, "train_path": str(tmp_path / "run")}, quiet=True)
    assert capsys.readouterr().err.count("Warning: cross_entropy has had") == 1


def test_logits_that_are_not_finite_in_a_test_name_the_skipped_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(Answers, "__call__", lambda self, *_, **__: np.full((597, 10), np.nan))
    recipe = {**SHORT, "transfer": "Labels", "train_epoch": 1, "on_nan": "skip", "train_path": str(tmp_path / "run")}
    with pytest.raises(NonFiniteError, match=r"In the test: .* on 597 of 597 images\. 0 updates were skipped"):
        train(recipe, quiet=True)


@pytest.mark.parametrize(
    ("method", "least"), [("RKD", 3), ("SP", 2), ("PKT", 2), ("CC", 2), ("IRG", 3), ("DIST", 2), ("SoftLogits+RKD", 3)]
)
def test_a_batch_too_small_to_compare_examples_in_is_refused_and_a_small_one_noted(method, least):
    recipe = {"student_arch": "CNN", "teacher_param": "tests/teacher", "distiller": method}
    with pytest.raises(UserError, match=f"--batch_size {least - 1}: .* and below {least} of them a loss is constant"):
        resolve({**recipe, "batch_size": least - 1})
    assert [note for note in resolve({**recipe, "batch_size": least})[1] if "has few to compare" in note]
    assert resolve({**recipe, "batch_size": 8})[1] == []


def test_a_method_that_compares_no_examples_takes_any_batch():
    recipe = {"student_arch": "CNN", "teacher_param": "tests/teacher", "distiller": "AT", "batch_size": 1}
    assert resolve(recipe)[1] == []


def test_an_unbalanced_choice_of_labels_is_counted(tmp_path, capsys):
    recipe = {**SHORT, "transfer": "Labels", "train_epoch": 1, "num_labels": 12, "seeds": 2}
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    text = "--num_labels 12: the classes have unequal numbers of labels: 2, 2, 1, 1, 1, 1, 1, 1, 1, 1."
    assert capsys.readouterr().err.count(text) == 1


def test_balanced_sampling_and_weights_resume_to_the_same_bits(tmp_path, stopped_at):
    recipe = {**SHORT, "sampling": "balanced", "class_weights": "balanced"}
    train({**recipe, "train_path": str(tmp_path / "whole")}, quiet=True)
    with stopped_at(4):
        train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert logs[0] == logs[1]
