"""Images as rows on the device are the images."""

import jax
import numpy as np
import pytest

from data import FlatImages


@pytest.mark.parametrize(
    ("shape", "stored"), [((4, 3, 2), (24,)), ((128, 64, 3), (192, 128)), ((129, 65, 3), (25155,))]
)
def test_long_rows_have_two_axes_and_the_same_images(shape, stored):
    images = np.random.RandomState(0).randint(0, 256, (3, *shape)).astype(np.uint8)
    flat = FlatImages.of(images)
    assert flat.rows.shape == (3, *stored)
    np.testing.assert_array_equal(jax.jit(lambda flat, index: flat[index])(flat, np.array([2, 0])), images[[2, 0]])


def test_rows_give_back_images_in_any_shape_of_indices():
    images = np.random.RandomState(0).randint(0, 256, (5, 4, 3, 2)).astype(np.uint8)
    flat = FlatImages.of(images)
    assert np.shares_memory(flat.rows, images)
    assert (flat.shape, len(flat)) == (images.shape, 5)
    for index in (np.array([4, 0, 4]), np.array([[1, 2], [3, 0]])):
        found = jax.jit(lambda flat, index: flat[index])(flat, index)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, images[index])
