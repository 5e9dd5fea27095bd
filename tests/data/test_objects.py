"""Objects follow their images through the augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
from data.augment import augment, placement
from data.objects import EMPTY, Found, gathered

SIDE, COUNT = 32, 16
AUGMENTATIONS = {
    "nothing": data.Augmentation(),
    "flip": data.Augmentation(flip=True),
    "crop": data.Augmentation(pad=6),
    "crop and flip": data.Augmentation(pad=6, flip=True),
    "resized crop and flip": data.Augmentation(resized_crop=0.3, flip=True),
}


@pytest.fixture(scope="module")
def scene():
    """Images with one bright rectangle each, and the rectangle as their object."""
    random, images, objects = np.random.RandomState(0), np.zeros((COUNT, SIDE, SIDE, 1), np.uint8), []
    for image in images:
        x, y, width, height = *random.randint(8, 14, 2), *random.randint(6, 10, 2)
        image[y : y + height, x : x + width] = 255
        objects.append([Found((x, y, x + width, y + height), 1, False, width * height)])
    return images, gathered(objects, np.full((COUNT, 2), SIDE), np.ones(COUNT))


@pytest.mark.parametrize("how", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_boxes_lie_around_the_moved_pixels(how, scene):
    images, objects = scene
    keys = jax.random.split(jax.random.key(3), COUNT)
    views = np.asarray(augment(jnp.asarray(images), keys, how))[..., 0]
    moved = objects.moved(*placement(keys, how, SIDE, SIDE), (SIDE, SIDE))
    there = np.asarray(moved.classes[:, 0]) == 1
    assert there.sum() >= COUNT // 2
    for view, box in zip(views[there], np.asarray(moved.boxes)[there, 0], strict=True):
        rows, columns = np.nonzero(view.max(axis=1) > 0.5)[0], np.nonzero(view.max(axis=0) > 0.5)[0]
        seen = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        np.testing.assert_allclose(box, seen, atol=1.0 if how.resized_crop else 1e-4)


def test_what_leaves_the_view_is_no_object(scene):
    _, objects = scene
    far = objects.moved(jnp.ones((COUNT, 2)), jnp.full((COUNT, 2), 100.0), (SIDE, SIDE))
    assert (np.asarray(far.classes) == EMPTY).all()
    assert not np.asarray(far.targets).any()


def test_a_batch_has_the_objects_of_its_views(scene):
    images, objects = scene
    index = jnp.arange(4, dtype=jnp.int32)
    how = AUGMENTATIONS["crop and flip"]
    batch = data.make_batch(jnp.asarray(images), objects, jnp.int32(0), index, index, jnp.float32(0), how)
    for view, box, label in zip(batch.image[..., 0], batch.label.boxes[:, 0], batch.label.classes[:, 0], strict=True):
        if label != EMPTY:
            columns = np.nonzero(np.asarray(view).max(axis=0) > 0.5)[0]
            np.testing.assert_allclose((box[0], box[2]), (columns[0], columns[-1] + 1), atol=1e-4)


def test_crowds_are_no_targets():
    own = [[Found((0, 0, 4, 4), 0, True, 16), Found((4, 4, 8, 8), 2, False, 16)], []]
    objects = gathered(own, np.full((2, 2), 8), np.ones(2))
    assert objects.targets.tolist() == [[False, True], [False, False]]
    assert len(objects) == 2
    assert objects[:1].shape == (1,)
