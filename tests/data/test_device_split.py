"""Images as rows on the device are the images."""

import jax
import numpy as np

from data import FlatImages


def test_rows_give_back_images_in_any_shape_of_indices():
    images = np.random.RandomState(0).randint(0, 256, (5, 4, 3, 2)).astype(np.uint8)
    flat = FlatImages.of(images)
    assert np.shares_memory(flat.rows, images)
    assert (flat.shape, len(flat)) == (images.shape, 5)
    for index in (np.array([4, 0, 4]), np.array([[1, 2], [3, 0]])):
        found = jax.jit(lambda flat, index: flat[index])(flat, index)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, images[index])
