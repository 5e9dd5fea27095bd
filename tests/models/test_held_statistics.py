"""Gradients at taps in training mode: the batch's statistics are constants of them, and not of the step's gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.layers import BatchNorm


class Normed(nn.Module):
    """A smooth network with the library's batch norm before and after a tap."""

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        tap, x = models.Taps(deltas), images
        x = tap.shift("input", x).reshape(images.shape[0], -1)
        x = BatchNorm(dtype=images.dtype, name="bn1")(x @ self.param("a", nn.initializers.normal(1.0), (4, 3)), train)
        x = tap("stage1", jnp.tanh(x))
        x = BatchNorm(dtype=images.dtype, name="bn2")(x @ self.param("b", nn.initializers.normal(1.0), (3, 3)), train)
        logits = jnp.tanh(x) @ self.param("c", nn.initializers.normal(1.0), (3, 2))
        return models.Outputs(logits=logits**2, features=tap.features)


@pytest.fixture
def normed():
    """(model, variables, images) in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, images = Normed(), jnp.asarray(np.random.RandomState(0).standard_normal((5, 2, 2, 1)))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), model.init(jax.random.key(1), images))
        yield model, variables, images


def batch_moments(model, variables, images):
    """The batch's own statistics, as batch_stats: what momentum 0 would have left there."""
    _, stats = models.forward(model, variables, images, train=True)
    return jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, stats, variables["batch_stats"])


@pytest.mark.slow
def test_a_training_steps_gradients_at_taps_hold_the_batch_statistics(normed):
    model, variables, images = normed
    cotangent = jnp.asarray(np.random.RandomState(1).standard_normal((5, 2)))
    taps = ("input", "stage1")
    found = models.forward(model, variables, images, train=True, gradient_taps=taps)[0]
    fixed = {**variables, "batch_stats": batch_moments(*normed)}
    expected = models.forward(model, fixed, images, gradient_taps=taps)[0]
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-9)
    for tap in taps:
        np.testing.assert_allclose(found.gradients(cotangent)[tap], expected.gradients(cotangent)[tap], rtol=1e-8)
    only_first = found.gradients(cotangent * jnp.array([1.0, 0, 0, 0, 0])[:, None])["input"]
    assert not np.any(only_first[1:])
    assert np.abs(only_first[0]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("taps", [("stage1",), ("input", "stage1")])
def test_a_training_steps_gradient_goes_through_the_statistics_of_explanations(normed, taps):
    model, variables, images = normed
    cotangent = jnp.asarray(np.random.RandomState(1).standard_normal((5, 2)))

    def loss(params):
        own = {**variables, "params": params}
        outputs, _ = models.forward(model, own, images, train=True, gradient_taps=taps)
        explained = sum(jnp.sum(jnp.sin(x)) for x in outputs.gradients(cotangent).values())
        return explained + jnp.sum(outputs.features["stage1"] ** 3) + jnp.sum(outputs.logits)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    random = np.random.RandomState(2)
    direction = jax.tree.map(lambda p: jnp.asarray(random.standard_normal(p.shape)), variables["params"])

    def at(size):
        return loss(jax.tree.map(lambda p, d: p + size * d, variables["params"], direction))

    difference = (at(1e-5) - at(-1e-5)) / 2e-5
    product = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    assert abs(float(difference)) > 1e-2
    np.testing.assert_allclose(product, difference, rtol=1e-6)
