"""Shapes: drawn the same everywhere, the class is the shape and nothing else, and masks cover what was drawn."""

import threading

import numpy as np
import pytest

import data
from data import shapes
from data.dataset import Split, channel_statistics
from registry import DamagedFileError


@pytest.mark.slow
def test_sizes_and_types():
    found = data.load("Shapes")
    assert (len(found.train), len(found.test)) == (2400, 600)
    assert found.image_shape == (32, 32, 3)
    assert found.class_names == ("disc", "ring", "square", "frame", "triangle", "cross")
    for split in (found.train, found.test):
        assert (split.images.dtype, split.labels.dtype, split.masks.dtype) == (np.uint8, np.int32, bool)
        assert split.images.shape == (len(split), 32, 32, 3)
        assert split.masks.shape == (len(split), 32, 32)
        assert np.bincount(split.labels).tolist() == [len(split) // 6] * 6


@pytest.mark.slow
def test_drawn_the_same_again_and_everywhere():
    """The first labels, one pixel and a mask's area are written down: RandomState's streams are kept by NumPy."""
    found, again = data.load("Shapes"), shapes.load()
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.test.images, found.test.images)
    assert found.test.labels[:8].tolist() == [2, 2, 5, 5, 3, 5, 1, 2]
    assert found.test.masks[:4].sum(axis=(1, 2)).tolist() == [81, 90, 86, 84]


def test_no_image_is_in_both_splits():
    found = data.load("Shapes")
    seen = {image.tobytes() for image in found.train.images}
    assert len(seen) == len(found.train)
    assert not any(image.tobytes() in seen for image in found.test.images)


def test_statistics_are_those_of_the_training_images():
    found = data.load("Shapes")
    assert (found.mean, found.std) == channel_statistics(found.train.images)


def test_masks_cover_one_colour_that_stands_out():
    found = data.load("Shapes").test
    for image, mask in zip(found.images[:50].astype(float), found.masks, strict=False):
        assert 0.02 < mask.mean() < 0.3
        inside, outside = image[mask], image[~mask]
        assert inside.std(axis=0).max() < 12  # the noise alone
        assert outside.std(axis=0).max() > inside.std(axis=0).max()
        assert mask[1:-1, 1:-1].sum() == mask.sum()  # whole, inside the image


def test_colour_and_place_tell_nothing_of_the_class():
    found = data.load("Shapes").train
    inside = np.stack([image[mask].mean(axis=0) for image, mask in zip(found.images, found.masks, strict=True)])
    place = np.stack([np.argwhere(mask).mean(axis=0) for mask in found.masks])
    for values, spread in ((inside, 74), (place, 5)):
        means = np.stack([values[found.labels == c].mean(axis=0) for c in range(6)])
        assert means.std(axis=0).max() < 4 * spread / np.sqrt(400)


def test_a_split_is_read_once_and_tells_everybody_what_is_wrong():
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def read():
        calls.append(threading.current_thread())
        begun.set()
        go_on.wait()
        raise DamagedFileError("no images")

    split = Split(1, (2, 2, 1), read)
    assert not calls
    split.begin()
    split.begin()
    assert begun.wait(10)  # meanwhile the caller does something else
    go_on.set()
    for what in ("images", "labels"):
        with pytest.raises(DamagedFileError, match="no images"):
            getattr(split, what)
    assert len(calls) == 1
    assert calls[0] is not threading.current_thread()


def test_a_split_without_masks_has_none():
    assert data.load("Digits").test.masks is None
    lazy = Split(1, (2, 2, 1), lambda: (np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32)))
    assert lazy.masks is None
