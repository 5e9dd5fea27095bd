"""Teachers of other classes: methods that read class scores refuse them, methods of features learn from them."""

import dataclasses

import numpy as np
import pytest

import data
import pretrained
from configs.resolve import resolve
from registry import UserError
from training.builder import Builder
from training.train import train

pytestmark = pytest.mark.slow

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KEPT = (7, 2, 4)
RUN = {"student_arch": "CNN", "train_epoch": 1, "batch_size": 100, "checkpoint_seconds": 1e9}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The teacher of all digits, with names that are words."""
    weights, folder = pretrained.load("tests/teacher"), tmp_path_factory.mktemp("named") / "weights"
    pretrained.save(folder, weights.variables, {**weights.info, "class_names": list(NAMES)})
    return str(folder)


@pytest.fixture
def digits(monkeypatch):
    """Names -> from now on `data.load` gives the digits 7, 2 and 4 alone, with these names."""
    whole = data.load("Digits")

    def part(split):
        rows = np.flatnonzero(np.isin(split.labels, KEPT))
        return data.Split.of(split.images[rows], np.array([KEPT.index(x) for x in split.labels[rows]], np.int32))

    some = dataclasses.replace(whole, name="Some", train=part(whole.train), test=part(whole.test), fingerprint="some")

    def named(*names):
        found = dataclasses.replace(some, class_names=names)
        monkeypatch.setattr(data, "load", lambda *_, **__: found)

    return named


@pytest.mark.parametrize("method", ["SoftLogits", "SRRL", "SoftLogits+AT", "CATKD"])
def test_a_method_that_reads_class_scores_needs_the_datas_classes(method, teacher, digits):
    """It reads them as logits, through the classifier, in one part of a sum, and by their gradients."""
    digits("cat", "cow", "dog")
    config = resolve({**RUN, "distiller": method, "teacher_param": teacher})[0]
    with pytest.raises(UserError, match="0 of the data's 3 are among the teacher's 10"):
        Builder(config)


def test_a_strategy_whose_teacher_learns_on_needs_them_too(teacher, digits):
    digits("cat", "cow", "dog")
    config = resolve({**RUN, "distiller": "AT", "transfer": "Online", "teacher_param": teacher})[0]
    with pytest.raises(UserError, match="0 of the data's 3 are among the teacher's 10"):
        Builder(config)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat", "cow", "dog"), "none of its classes are in Some; its accuracy is not measured"),
        (("seven", "two", "dog"), "on the 2 classes in common"),
    ],
)
def test_a_method_of_features_learns_from_a_teacher_of_other_classes(names, said, teacher, digits, tmp_path, capsys):
    digits(*names)
    recipe = {**RUN, "distiller": "AT", "teacher_param": teacher, "train_path": str(tmp_path / "run")}
    summary = train(recipe)
    assert said in capsys.readouterr().out
    assert "agreement" not in summary["last"]
    with pytest.raises(UserError, match="of the data's 3 are among"):  # a bank holds class scores alone
        Builder(resolve({**recipe, "teacher_views": 2})[0])


def test_a_teacher_of_more_classes_is_compared_on_the_datas(teacher, digits, tmp_path, capsys):
    digits(*(NAMES[i] for i in KEPT))
    recipe = {**RUN, "distiller": "SoftLogits", "teacher_param": teacher, "train_path": str(tmp_path / "run")}
    summary = train({**recipe, "teacher_views": 1})
    found = capsys.readouterr()
    assert found.err.count("Warning: ") == 1
    assert "the teacher has 10 classes, and Some's 3 are among them." in found.err
    assert summary["last"]["agreement"] > 40
    accuracy = float(found.out.partition("test top-1 ")[2].partition(" %")[0])
    assert accuracy > 95
