"""`--val_split`: the validation images are chosen by class, once for all seeds, and leave the training split."""

import dataclasses

import cv2
import numpy as np
import pytest

import data
from data.picture import Form
from data.pictures import PictureSplit
from registry import UserError


@pytest.fixture(scope="module")
def digits():
    return data.load("Digits")


@pytest.fixture(scope="module")
def held():
    return data.load("Digits", val_split=0.1)


def test_every_class_gives_its_share_and_no_image_is_lost_or_doubled(digits, held):
    whole, kept, chosen = (np.bincount(s.labels, minlength=10) for s in (digits.train, held.train, held.val))
    np.testing.assert_array_equal(chosen, np.round(0.1 * whole))
    np.testing.assert_array_equal(kept + chosen, whole)

    def pictures(*splits):
        return sorted(
            (image.tobytes(), int(label)) for s in splits for image, label in zip(s.images, s.labels, strict=True)
        )

    assert pictures(held.train, held.val) == pictures(digits.train)
    assert pictures(held.test) == pictures(digits.test)


def test_the_choice_is_the_datas_and_the_fingerprint_says_so(digits, held):
    again = data.hold_out(digits, 0.1)
    np.testing.assert_array_equal(again.val.images, held.val.images)
    assert again.fingerprint == held.fingerprint != digits.fingerprint
    assert data.hold_out(digits, 0.2).fingerprint != held.fingerprint
    assert (held.mean, held.std) == (digits.mean, digits.std)
    assert held.report[0].startswith("Digits: 1,080 training, 120 validation, 597 test images")


def test_the_validation_split_chooses_where_there_is_one(digits, held):
    assert (list(digits.exams), digits.best_on) == (["test"], "test")
    assert (list(held.exams), held.best_on) == (["val", "test"], "val")


@pytest.mark.slow
def test_masks_stay_with_their_images():
    shapes = data.load("Shapes")
    held = data.hold_out(shapes, 0.5)
    place = {image.tobytes(): mask for image, mask in zip(shapes.train.images, shapes.train.masks, strict=True)}
    for image, mask in zip(held.val.images[:20], held.val.masks[:20], strict=True):
        np.testing.assert_array_equal(place[image.tobytes()], mask)


def split(*labels):
    labels = np.asarray(labels, np.int32)
    return data.Split.of(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], labels)


def small(digits, train, **changes):
    return dataclasses.replace(digits, train=train, class_names=("a", "b", "c"), **changes)


def test_a_small_class_gives_one_image_and_keeps_one(digits):
    found = data.hold_out(small(digits, split(0, 0, 0, 1, 1, 2)), 0.9)
    assert sorted(found.val.labels) == [0, 0, 1]
    assert sorted(found.train.labels) == [0, 1, 2]
    assert sorted(data.hold_out(small(digits, split(0, 0, 0, 1, 1, 2)), 0.01).val.labels) == [0, 1]


def test_images_in_files_are_not_read(digits):
    labels = np.asarray([0, 0, 1, 1, 2, 2], np.int32)
    read = []

    class Source:
        def read(self, i):
            read.append(i)
            return cv2.imencode(".png", np.full((1, 1), i, np.uint8))[1].tobytes()

    found = data.hold_out(small(digits, PictureSplit("Some", Source(), labels, Form(1, 1))), 0.5)
    assert read == []
    rows = [int(x) for s in (found.train, found.val) for x in s.images.ravel()]
    assert sorted(rows) == list(range(6))
    np.testing.assert_array_equal(labels[rows], [*found.train.labels, *found.val.labels])


def test_what_cannot_be_held_out_is_refused(digits, held):
    with pytest.raises(UserError, match=r"--val_split 0.1 .* Digits has 120 validation images of its own.\nLeave"):
        data.hold_out(held, 0.1)
    with pytest.raises(UserError, match="no class of Digits has two training images"):
        data.hold_out(small(digits, split(0, 1, 2)), 0.1)
