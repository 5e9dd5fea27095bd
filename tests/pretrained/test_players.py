"""Weights whose classes are the data's in another order, or other classes."""

import dataclasses

import jax
import numpy as np
import pytest

import data
import models
import pretrained
from configs.resolve import resolve
from pretrained.players import class_note, class_order, player_of
from registry import UserError
from studies import evaluation, explaining
from training.builder import Builder

TEACHER = "tests/teacher"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture(scope="module")
def digits():
    """Digits with names that are words."""
    return dataclasses.replace(data.load("Digits"), class_names=NAMES)


@pytest.fixture(scope="module")
def reordered(tmp_path_factory):
    """The teacher as a training on other folders would have made it: its classes named, in another order."""
    weights, folder = pretrained.load(TEACHER), tmp_path_factory.mktemp("reordered")
    last = {name: value[..., ORDER] for name, value in weights.variables["params"]["classifier"].items()}
    params = {**weights.variables["params"], "classifier": last}
    info = {**weights.info, "class_names": [NAMES[i] for i in ORDER]}
    pretrained.save(folder / "weights", {**weights.variables, "params": params}, info)
    return folder / "weights"


def test_classes_in_another_order_are_matched_by_name(reordered, digits, capsys):
    expected = evaluation.answers([TEACHER], data.load("Digits"), [""], "teacher")[0]
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(evaluation.answers([str(reordered)], digits, [""], "teacher")[0], expected)
    assert (
        "the teacher has the classes of Digits in another order. They are matched by name." in capsys.readouterr().err
    )


def test_class_maps_and_gradients_are_in_the_order_of_the_data(reordered, digits):
    ours, theirs = (
        explaining.subject_of(str(path), dataset, "teacher")
        for path, dataset in ((TEACHER, data.load("Digits")), (reordered, digits))
    )
    images = digits.test.images[:2]

    @jax.jit
    def asked(variables, images):
        outputs, _ = models.forward(ours.model, variables, images, gradient_taps=("stage1",))
        cotangent = jax.nn.one_hot(np.array([1, 2]), 10)
        return outputs.classify(outputs.features["embedding"]), outputs.gradients(cotangent)

    for a, b in zip(*(jax.tree.leaves(asked(s.variables, s.normalised(images))) for s in (ours, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_takes_teachers_by_name_frozen_or_not(reordered, digits, monkeypatch):
    right = pretrained.load(TEACHER).variables["params"]["classifier"]
    monkeypatch.setattr(data, "load", lambda *_, **__: digits)
    monkeypatch.setattr(Builder, "_cast", lambda self: None)  # no students
    parts = Builder(resolve({"distiller": "SoftLogits", "teacher_param": str(reordered), "student_arch": "CNN"})[0])
    for frozen in (True, False):
        ((_, variables),) = parts.trained("teacher", frozen)
        for name, value in variables["params"]["classifier"].items():
            np.testing.assert_array_equal(value, right[name])


def test_an_order_needs_the_same_names():
    assert class_order(["b", "a"], ("a", "b")) == [1, 0]
    assert class_order(["a", "b"], ("a", "b")) == []
    assert class_order(["a", "c"], ("a", "b")) == []
    text = sorted(map(str, range(11)))
    assert class_order(list(map(str, range(11))), text) == []  # a conversion without names numbers the classes
    assert class_order(text, tuple(map(str, range(11))))[:4] == [0, 1, 3, 4]


def test_other_classes_are_named(digits):
    info = pretrained.load(TEACHER).info
    assert class_note("teacher", info, digits) == ""  # numbers say nothing
    note = class_note("teacher", {**info, "class_names": [*NAMES[:8], "ate", "nein"]}, digits)
    assert note == (
        "2 of the teacher's 10 class names are not those of Digits: class 8 is 'ate' there and 'eight' in the data, "
        "class 9 is 'nein' there and 'nine' in the data. The classes are matched by their numbers."
    )


def test_an_order_that_would_be_right_is_named(digits):
    info, labels = pretrained.load(TEACHER).info, digits.test.labels
    logits = np.eye(10)[np.argsort(NAMES).argsort()[labels]]  # a network that sorts the names as text
    note = class_note("network", info, digits, logits, labels)
    assert "the network would be right on 100.00 % of the images with its classes in the order eight, five" in note
    assert class_note("network", info, digits, np.eye(10)[labels], labels) == ""


def test_a_network_without_a_classifier_is_refused(digits):
    weights = pretrained.load(TEACHER)
    params = dict(weights.variables["params"])
    params["head"] = params.pop("classifier")
    other = dataclasses.replace(weights, variables={**weights.variables, "params": params})
    other = dataclasses.replace(other, info={**weights.info, "class_names": list(NAMES[::-1])})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "check", lambda weights, model: weights.variables)
        with pytest.raises(UserError, match="no layer named `classifier`"):
            player_of(other, "teacher", class_names=NAMES)
