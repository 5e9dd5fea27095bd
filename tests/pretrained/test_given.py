"""Logits that somebody else's teacher gave: what is checked of a file and of a function, and what is said of them."""

import dataclasses
import re

import numpy as np
import pages
import pytest

import data
from pretrained import given
from registry import NonFiniteError, UserError

FUNCTIONS = """
import numpy as np

seen = []


def good(images):
    seen.append(images)
    return np.stack([images.reshape(len(images), -1).sum(axis=1) / 1000.0] * 10, axis=1)


def narrow(images):
    return np.zeros((len(images), 3))


def whole(images):
    return np.zeros((len(images), 10), int)


def broken(images):
    raise RuntimeError("no graphics card")


def infinite(images):
    return np.full((len(images), 10), np.inf)
"""


@pytest.fixture(scope="module")
def digits():
    return data.load("Digits")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder with `outside.py`, in which tests start."""
    (tmp_path / "outside.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logits(*shape, dtype=np.float32):
    return np.random.RandomState(0).standard_normal(shape).astype(dtype)


def nan_at(row):
    values = logits(1200, 10)
    values[row, 3] = np.nan
    return values


FILES = {
    "rows": (logits(597, 10), 0, r"shape (597, 10). Digits has 1,200 training images of 10 classes"),
    "classes": (logits(1200, 9), 0, "must be (1200, 10), or (views, 1200, 10)"),
    "axes": (logits(12000), 0, "has the shape (12000,)"),
    "views": (logits(3, 1200, 10), 0, "--teacher_views is 0.\nAdd --teacher_views 3."),
    "other views": (logits(3, 1200, 10), 2, "Add --teacher_views 3."),
    "no views": (logits(1200, 10), 2, "Leave --teacher_views out"),
    "whole numbers": (np.zeros((1200, 10), np.int64), 0, "holds int64. Logits are floats"),
    "objects": (np.array([[None] * 10] * 1200), 0, "cannot be read: Array can't be memory-mapped: Python objects"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_does_not_fit_is_refused_in_two_lines(case, digits, place):
    values, views, message = FILES[case]
    np.save("logits.npy", values, allow_pickle=True)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        given.load("logits.npy", digits, views)
    assert len(str(raised.value).splitlines()) <= 2


def test_a_logit_that_is_not_finite_is_named(digits, place):
    np.save("logits.npy", nan_at(701))
    with pytest.raises(NonFiniteError, match="training image 701 are not finite"):
        given.load("logits.npy", digits, 0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.npy", "No such file or directory"),
        ("outside.py", "is no .npy file"),
        ("nothing:good", "Cannot import 'nothing'"),
        ("outside:god", "has no class or function 'god'"),
    ],
)
def test_what_is_no_source_of_logits_is_refused(source, message, digits, place):
    with pytest.raises(UserError, match=re.escape(message)):
        given.load(source, digits, 0)


def test_the_file_of_the_page_is_taken(digits, place, capsys):
    exec(pages.code("teachers.md", "np.save"), {})
    assert capsys.readouterr().out == "(1200, 8, 8, 1)\n"
    assert given.load("logits.npy", digits, 0).values.shape == (1, 1200, 10)


def test_a_file_is_mapped_and_its_rows_are_the_images(digits, place):
    values = logits(2, 1200, 10, dtype=np.float64)
    np.save("logits.npy", values)
    found = given.load("logits.npy", digits, 2)
    assert isinstance(found.values, np.memmap)
    rows = np.array([7, 1199, 0])
    answer = found.logits(1, rows, lambda: pytest.fail("nobody asks for the images"))
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, values[1, rows].astype(np.float32))
    before = found.sha256
    np.save("logits.npy", values + 1)
    assert given.load("logits.npy", digits, 2).sha256 != before


def test_a_function_sees_bytes_and_its_answers_are_checked(digits, place):
    rows, images = np.arange(5), digits.train.images[:5]
    found = given.load("outside:good", digits, 0)
    for shown in (images, images.astype(np.float32) / 255.0):
        answer = found.logits(0, rows, lambda shown=shown: shown)
        np.testing.assert_allclose(answer[:, 0], images.reshape(5, -1).sum(axis=1) / 1000.0, rtol=1e-6)
    import outside

    for seen in outside.seen:
        assert seen.dtype == np.uint8
        np.testing.assert_array_equal(seen, images)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("narrow", UserError, "returned (5, 3) float64 for images (5, 8, 8, 1).\nIt must return logits (5, 10)"),
        ("whole", UserError, "returned (5, 10) int64"),
        ("broken", UserError, "raised on images (5, 8, 8, 1) uint8:\nRuntimeError: no graphics card"),
        ("infinite", NonFiniteError, "training image 3 are not finite (5 such images"),
    ],
)
def test_a_function_that_answers_otherwise_is_refused(name, error, message, digits, place):
    found = given.load(f"outside:{name}", digits, 0)
    with pytest.raises(error, match=re.escape(message)):
        found.logits(0, np.arange(3, 8), lambda: digits.train.images[3:8])


def said_of(values, dataset, arrays=None):
    said, warned = [], []
    source = given.Given("logits.npy", "", 10, 0, values[None])
    source.compare(arrays or {"values": values[None]}, dataset, said.append, warned.append)
    return said, warned


def test_the_accuracy_is_printed_and_a_wrong_order_is_warned_of(digits):
    labels = digits.train.labels
    right = 5 * np.eye(10, dtype=np.float32)[labels]
    said, warned = said_of(right, digits)
    assert said == [
        "Teacher's logits from logits.npy: top-1 100.00 % on the training labels. Every view of an image has the "
        "logits of the image without augmentation."
    ]
    assert warned == []
    best = {"values": right[None, :, :3], "indices": right.argsort(axis=1)[None, :, ::-1][..., :3]}
    assert said_of(right, digits, best) == (said, [])
    said, warned = said_of(np.random.RandomState(0).permutation(right), digits)
    assert "guessing reaches" in warned[0]
    assert "Row i must belong to training image i, and hold the scores of the dataset's classes" in warned[0]
    named = dataclasses.replace(digits, class_names=tuple("jihgfedcba"))
    said, warned = said_of(right[:, ::-1], named)
    assert "would be right on 100.00 % with their classes in the order a, b, c, d, e, f, ..." in warned[0]


def test_without_labels_nothing_is_compared(digits):
    bare = data.Split.of(digits.train.images, np.full(1200, -1, np.int32))
    assert said_of(logits(1200, 10), dataclasses.replace(digits, train=bare)) == ([], [])
