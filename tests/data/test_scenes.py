"""Scenes: drawn the same everywhere, boxes fit the drawn pixels, and what reads class numbers refuses the data."""

import dataclasses

import numpy as np
import pytest

import data
from configs.resolve import resolve
from data import scenes
from data.objects import EMPTY, Found, gathered
from registry import UserError


@pytest.fixture(scope="module")
def found():
    return data.load("Scenes")


def test_sizes_types_and_what_is_in_the_pictures(found):
    assert (len(found.train), len(found.test), found.task, found.num_classes) == (2400, 200, "detection", 6)
    assert found.info["task"] == "detection"
    assert "task" not in data.load("Digits").info  # older files of weights stay as they are
    for split in (found.train, found.test):
        own = split.labels
        assert split.images.shape == (len(split), 64, 64, 3) == (*split.masks.shape, 3)
        assert [leaf.dtype for leaf in (own.boxes, own.classes, own.crowd, own.area, own.size, own.scale)] == [
            *(np.float32, np.int32, bool, np.float32, np.float32, np.float32)
        ]
        counts = (own.classes != EMPTY).sum(axis=1)
        assert set(counts) == {0, 1, 2, 3, 4}
        assert 0.01 < (counts == 0).mean() < 0.06
        assert 0.01 < own.crowd.any(axis=1).mean() < 0.08
        assert min(np.bincount(own.classes[own.classes != EMPTY])) > 0.1 * counts.sum()
        assert (own.area[own.classes == EMPTY] == 0).all()


def test_boxes_are_exact_around_the_drawn_pixels(found):
    """All pixels of the masks are in boxes, every side of a box touches the mask, and the areas add up to the mask."""
    split = found.test
    for mask, own in zip(split.masks, split.labels, strict=True):
        boxes = own.boxes[own.classes != EMPTY].astype(int)
        inside = np.zeros_like(mask)
        for left, top, right, bottom in boxes:
            part = mask[top:bottom, left:right]
            assert all(side.any() for side in (part[0], part[-1], part[:, 0], part[:, -1]))
            inside[top:bottom, left:right] = True
        assert not mask[~inside].any()
        assert own.area.sum() == mask.sum()


def test_drawn_the_same_again_and_everywhere(found):
    """The first classes and boxes are written down: NumPy keeps RandomState's streams."""
    images, own, _ = scenes._draw.__wrapped__(scenes.TEST, 3)
    np.testing.assert_array_equal(images, found.test.images)
    np.testing.assert_array_equal(own.boxes, found.test.labels.boxes)
    assert found.test.labels.classes[:3].tolist() == [[1, 4, -1, -1], [0, 4, 5, 5], [3, -1, -1, -1]]
    assert found.test.labels.boxes[0, 0].tolist() == [35, 26, 51, 43]


def test_objects_of_images_are_gathered_in_rows_and_indexed_like_labels():
    one, two = Found((1, 2, 3, 4), 5, False, 4.0), Found((0, 0, 9, 9), 1, True, 70.0)
    found = gathered([[one], [], [two, one]], np.full((3, 2), 16), np.ones(3))
    assert found.classes.tolist() == [[5, EMPTY], [EMPTY, EMPTY], [1, 5]]
    assert found.crowd.tolist() == [[False, False], [False, False], [True, False]]
    assert (len(found), found.shape, found[2].shape, len(found[np.array([2, 0])])) == (3, (3,), (), 2)
    assert found[2].boxes.tolist() == [[0, 0, 9, 9], [1, 2, 3, 4]]
    assert found[::-1].area.tolist() == [[70, 4], [0, 0], [4, 0]]
    assert gathered([[], []], np.ones((2, 2)), np.ones(2)).boxes.shape == (2, 1, 4)


def test_a_share_of_all_images_is_held_out_with_objects_and_masks(found):
    held = data.load("Scenes", val_split=0.1)
    assert (len(held.train), len(held.val), len(held.test)) == (2160, 240, 200)
    whole = {image.tobytes(): row for row, image in enumerate(found.train.images)}
    rows = [whole[image.tobytes()] for part in (held.train, held.val) for image in part.images]
    assert sorted(rows) == list(range(scenes.TRAIN))
    np.testing.assert_array_equal(held.val.labels.boxes, found.train.labels[rows[2160:]].boxes)
    np.testing.assert_array_equal(held.val.masks, found.train.masks[rows[2160:]])


@pytest.mark.parametrize("key", ["num_labels", "sampling", "class_weights"])
def test_what_counts_images_by_class_is_refused(key):
    recipe = {"dataset": "Scenes", "student_arch": "CNN", "teacher_param": "tests/teacher"}
    with pytest.raises(UserError, match="images of Scenes have objects, not one class each"):
        resolve({**recipe, key: 100 if key == "num_labels" else "balanced"}, (key,))


def test_what_reads_one_class_an_image_is_refused_in_two_lines(found):
    with pytest.raises(UserError, match=r"^--probe reads the class of each image, and Scenes is .* detection\.\nTake"):
        found.check_classified("--probe")
    found.check_labelled("evaluate.py")  # objects are labels
    with pytest.raises(UserError, match="reads labels, and Scenes has none"):
        dataclasses.replace(found, labelled=False).check_classified("--probe")
    for given in ({"image_size": 32}, {"resize": 40}, {"interpolation": "bicubic"}):
        with pytest.raises(UserError, match=r"boxes of Scenes belong to images of their own size\.\nLeave --"):
            data.load("Scenes", **given)
