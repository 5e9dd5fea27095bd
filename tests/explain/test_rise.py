import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
import models
from explain.rise import random_masks


class Corner(nn.Module):
    """Class 1 is the brightness of the upper left quarter; the network has neither taps nor gradients to offer."""

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param("scale", nn.initializers.ones, (1,))
        bright = jnp.mean(images[:, : images.shape[1] // 2, : images.shape[2] // 2], axis=(1, 2, 3))
        return jnp.stack([jnp.zeros_like(bright), scale * bright], axis=1)


@pytest.mark.slow
def test_masks_are_open_as_often_as_asked_everywhere():
    masks = np.asarray(random_masks(jax.random.key(0), 4000, (9, 12), 4, 0.3))
    assert masks.shape == (4000, 9, 12)
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=0.03)
    assert masks.std(0).min() > 0.2


def test_what_the_black_box_looks_at_is_found():
    model, images = Corner(), np.full((1, 16, 16, 3), 3.0, np.float32)
    variables = model.init(jax.random.key(0), images)
    shown = explain.create("RISE", grid=4, samples=4000, per_pass=4000)
    found = shown(model, variables, images, np.array([1], np.int32))[0]
    other = shown(model, variables, images, np.array([0], np.int32))[0]
    inside, outside = np.s_[1:7, 1:7], (np.s_[1:7, 10:], np.s_[10:, 1:7], np.s_[10:, 10:])
    assert found[inside].mean() > 1.02 * max(found[part].mean() for part in outside)
    assert other[inside].mean() < 0.98 * min(other[part].mean() for part in outside)


@pytest.mark.slow
def test_the_map_is_the_mean_of_the_masks_by_probability(network):
    thing = network("CNN")
    shown = explain.create("RISE", samples=6, grid=3, per_pass=4, keep=0.4, seed=2)
    masks = np.asarray(random_masks(jax.random.key(2), 6, (8, 8), 3, 0.4))
    expected = np.zeros((3, 8, 8))
    answer = jax.jit(lambda x: models.forward(thing.model, thing.variables, x)[0].logits)
    for mask in masks:
        share = np.asarray(jax.nn.softmax(answer(thing.images * mask[None, :, :, None])))[np.arange(3), thing.target]
        expected += share[:, None, None] * mask / (6 * 0.4)
    found = shown(thing.model, thing.variables, thing.images, thing.target)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
