"""Weights whose classes are the data's in another order, or other classes."""

import dataclasses

import jax
import numpy as np
import pytest

import data
import models
import pretrained
from configs.resolve import resolve
from pretrained.classes import class_note, columns, in_common, matched, mismatch
from pretrained.players import dataset_of, fitted, player_of
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


def named(digits, *names, **changes):
    return dataclasses.replace(digits, class_names=names, **changes)


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        ("b a", "a b", [1, 0]),
        ("a b", "a b", []),
        ("a c", "a b", None),
        ("c a d b", "a b", [1, 3]),
        ("a b", "a b c", None),
        ("a a b", "a b", None),
        ("0 1", "a b", []),
        ("a b", "0 1", []),
        ("0 1 2", "0 1", None),
        ("0 1 2", "a b", None),
        ("0 1 10 2", "0 1 2 10", [0, 1, 3, 2]),
        ("n0144076_a n02 n01443537", "n01443537 n02", [2, 1]),
    ],
)
def test_classes_are_matched_by_name_or_by_number(theirs, ours, order, digits):
    info = {"class_names": theirs.split(), "dataset": "ImageFolder"}
    assert columns(info, named(digits, *ours.split())) == order


def test_imagenets_classes_are_known_by_wordnets_number(digits):
    info = {"class_names": ["n01440764 tench", "n01443537 goldfish", "n02 x"], "dataset": "ImageNet"}
    assert columns(info, named(digits, "n01443537", "n01440764 tench, Tinca tinca")) == [1, 0]


def test_a_benchmark_has_one_order_of_its_classes(digits):
    info = {"class_names": ["a", "c"], "dataset": "Digits"}
    assert columns(info, named(digits, "a", "b")) == []
    assert columns({**info, "dataset": "ImageFolder"}, named(digits, "a", "b", name="ImageFolder")) is None


@pytest.fixture(scope="module")
def some():
    """The digits 7, 2 and 4 alone, with names."""
    whole, kept = data.load("Digits"), (7, 2, 4)

    def part(split):
        rows = np.flatnonzero(np.isin(split.labels, kept))
        return data.Split.of(split.images[rows], np.array([kept.index(x) for x in split.labels[rows]], np.int32))

    names = tuple(NAMES[i] for i in kept)
    return dataclasses.replace(
        whole, name="Some", train=part(whole.train), test=part(whole.test), class_names=names, fingerprint="some"
    )


def test_a_teacher_of_more_classes_is_cut_to_the_datas(reordered, some, capsys):
    """Its logits are the whole network's at the classes of the data: softmax over these."""
    whole = data.load("Digits")
    rows = np.flatnonzero(np.isin(whole.test.labels, (7, 2, 4)))
    expected = evaluation.answers([TEACHER], whole, [""], "teacher")[0][rows][:, [7, 2, 4]]
    found = evaluation.answers([str(reordered)], some, [""], "teacher")[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    note = "the teacher has 10 classes, and Some's 3 are among them. Its outputs for the others are cut off."
    assert note in capsys.readouterr().err
    weights, _ = matched(pretrained.load(reordered), some, "teacher")
    assert (weights.info["num_classes"], weights.info["test_top1"]) == (3, None)
    subject = explaining.subject_of(str(reordered), some, "teacher")
    assert subject.answers(some.test.images[:2])[0].shape == (2, 3)


def test_classes_that_the_teacher_lacks_are_refused_with_both_first_names(reordered, some):
    weights, other = pretrained.load(reordered), named(some, "seven", "cat", "dog")
    with pytest.raises(UserError) as caught:
        fitted(weights, other, "teacher", print)
    first, second = str(caught.value).splitlines()
    assert first.endswith(
        "has the classes 'three', 'one', 'four', ..., Some has 'seven', 'cat', 'dog'; 1 of the data's 3 are among the "
        "teacher's 10."
    )
    assert second.startswith("If they are the same classes, write the data's names into `class_names`")
    with pytest.raises(UserError, match="0 of the data's 3 are among the network's 10"):
        explaining.subject_of(str(reordered), named(some, "cat", "cow", "dog"), "network")
    with pytest.raises(UserError, match=r"has 10 classes \(Digits\), Some has 3."):
        fitted(pretrained.load(TEACHER), some, "teacher", print)
    assert mismatch(weights, some, "teacher") == ""


def test_an_accuracy_is_of_the_classes_in_common(reordered, some):
    info, labels = pretrained.load(reordered).info, np.array([0, 1, 2, 1])
    logits = np.arange(40.0).reshape(4, 10)
    left, right = in_common(info, named(some, "cat", "two", "four"), logits, labels)
    np.testing.assert_array_equal(left, logits[1:][:, [ORDER.index(2), ORDER.index(4)]])
    np.testing.assert_array_equal(right, [0, 1, 0])
    assert in_common(info, named(some, "cat", "cow", "dog"), logits, labels) is None
    assert in_common(info, some, logits[:, :3], labels)[1] is labels


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
    with pytest.raises(UserError, match="no layer named `classifier`"):
        matched(other, digits, "teacher")


def test_weights_and_data_of_two_tasks_are_told_apart(digits):
    """By what the weights say of themselves, by their network, and before the images of a classifier are resized."""
    weights = pretrained.load(TEACHER)
    boxes = dataclasses.replace(digits, task="detection")
    message = "is data for detection, and the weights of the {} in tests/teacher are for classification"
    with pytest.raises(UserError, match=message.format("teacher")):
        fitted(weights, boxes, "teacher", pytest.fail)
    with pytest.raises(UserError, match=message.format("student")):
        player_of(weights, "student", dataset=boxes)
    with pytest.raises(UserError, match="Scenes is data for detection, and the weights of the network CNN"):
        dataset_of(weights.info, {"dataset": "Scenes"})
    with pytest.raises(UserError, match="Digits is data for classification, and the weights of the network CNN"):
        dataset_of({**weights.info, "task": "detection"}, {})
