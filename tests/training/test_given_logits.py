"""Runs whose teacher is a file of logits, or a function: no network teaches, and the run is exact all the same."""

import json
import signal

import jax.numpy as jnp
import numpy as np
import pytest

import data
from configs.resolve import resolve
from registry import UserError
from signals import Interrupted
from training.builder import Builder
from training.replica import Replica
from training.train import train

pytestmark = pytest.mark.slow

SMALL = {"student_arch": "CNN", "train_epoch": 2, "batch_size": 50, "crop_pad": 1, "distiller": "SoftLogits"}
SMALL |= {"log_every": 8, "eval_every": 2, "checkpoint_seconds": 1e9, "teacher_bank_dtype": "float32"}
FUNCTION = """
import numpy as np

seen = []


def ask(images):
    seen.append(images)
    flat = images.reshape(len(images), -1).astype(np.float32) / 255.0
    return flat[:, :10] - flat[:, 20:30]
"""


@pytest.fixture(scope="module")
def digits():
    return data.load("Digits")


@pytest.fixture
def file(digits, tmp_path):
    """Logits that are right on all training images."""
    path = tmp_path / "logits.npy"
    np.save(path, 4 * np.eye(10, dtype=np.float32)[digits.train.labels])
    return path


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_logits_of_a_file_teach_and_the_run_resumes_and_notices_another_file(
    file, digits, tmp_path, capsys, monkeypatch
):
    run = {**SMALL, "teacher_logits": str(file), "train_path": str(tmp_path / "run")}
    summary = train({**run, "num_labels": 10})
    assert summary["last"]["top1"] > 50  # ten labels alone teach far less
    assert "agreement" not in summary["last"]
    assert "top-1 100.00 % on the training labels." in capsys.readouterr().out
    bank = np.load(tmp_path / "run" / "teacher_bank" / "values.npy")
    np.testing.assert_array_equal(bank, np.load(file)[None])

    load_epoch, other = Replica.load_epoch, tmp_path / "other"

    def interrupted(self, step):
        signal.raise_signal(signal.SIGTERM)
        load_epoch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "load_epoch", interrupted)
        with pytest.raises(Interrupted):
            train({**run, "num_labels": 10, "train_path": str(other)}, quiet=True)
    moved = file.rename(tmp_path / "moved.npy")
    run["teacher_logits"] = str(moved)  # the file may move; its content may not change
    train({**run, "num_labels": 10, "train_path": str(other)}, quiet=True)
    assert rows(other) == rows(tmp_path / "run")
    np.save(moved, np.load(moved) + 1)
    with pytest.raises(UserError, match="holds a run with another config: teacher_sha256"):
        train({**run, "num_labels": 10, "train_path": str(other)}, quiet=True)


def test_a_function_is_asked_about_the_fixed_views_that_the_student_sees(digits, tmp_path, monkeypatch):
    (tmp_path / "asked_outside.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    run = {**SMALL, "train_epoch": 1, "teacher_logits": "asked_outside:ask", "teacher_views": 2}
    train({**run, "train_path": str(tmp_path / "run")}, quiet=True)
    import asked_outside

    bank = np.load(tmp_path / "run" / "teacher_bank" / "values.npy")
    index = jnp.arange(1200, dtype=jnp.int32)
    images, labels = jnp.asarray(digits.train.images), jnp.asarray(digits.train.labels)
    for view in range(2):
        made = data.make_batch(
            images, labels, 0, index, jnp.full_like(index, view), 0.0, data.Augmentation(pad=1, flip=False)
        )
        shown = np.rint(255 * np.asarray(made.image)).astype(np.uint8)
        np.testing.assert_allclose(bank[view], asked_outside.ask(shown), rtol=1e-6, atol=1e-6)
    assert np.abs(bank[0] - bank[1]).max() > 0.1  # the views differ
    assert {seen.dtype for seen in asked_outside.seen} == {np.dtype("uint8")}


REFUSED = {
    "features": ({"distiller": "AT"}, "AT needs more of the teacher than its logits"),
    "several views": ({"distiller": "MLKD"}, "MLKD wants the views weak, strong"),
    "mixed": ({"mixup": 1.0}, "images are mixed with others"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_more_than_logits_is_refused_by_name(case, file):
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as raised:
        Builder(resolve({**SMALL, "teacher_logits": str(file), **changes})[0])
    assert str(raised.value).startswith(f"--teacher_logits {file}: ")
    assert "Give the teacher's weights, --teacher_param" in str(raised.value)


def test_stored_classes_can_be_fewer(file, tmp_path):
    run = {**SMALL, "train_epoch": 1, "teacher_logits": str(file), "teacher_bank_top_k": 2}
    train({**run, "train_path": str(tmp_path / "run")}, quiet=True)
    assert np.load(tmp_path / "run" / "teacher_bank" / "indices.npy").shape == (1, 1200, 2)
