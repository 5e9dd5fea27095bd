"""Muon: which parameters are matrices, and what their update is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transfer.muon import SIZE, muon

RATE = np.float32(0.01)


def update(gradients, steps=1, **options):
    """The update after `steps` equal gradients, parameters of ones."""
    tx = muon(RATE, **options)
    params = jax.tree.map(jnp.ones_like, gradients)

    @jax.jit
    def run(gradients):
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(gradients, state, params)
        return updates

    return run(gradients)


def normal(*shape):
    return jnp.asarray(np.random.RandomState(0).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (3, 3, 4, 8)], ids=str)
def test_the_update_of_a_matrix_is_nearly_orthogonal_and_of_adamws_size(shape):
    found = np.asarray(update({"kernel": normal(*shape)})["kernel"]).reshape(-1, shape[-1])
    sides = found.shape
    values = np.linalg.svd(found / (float(RATE) * SIZE * max(sides) ** 0.5), compute_uv=False)
    assert 0.6 < values.min() <= values.max() < 1.3  # five steps of Newton and Schulz
    assert np.sqrt((found**2).mean()) == pytest.approx(0.2 * RATE, rel=0.35)
    u, _, v = np.linalg.svd(np.asarray(normal(*shape)).reshape(sides), full_matrices=False)
    direction = -u @ v
    assert (found * direction).sum() / np.linalg.norm(found) / np.linalg.norm(direction) > 0.95


def test_the_kernel_of_a_convolution_is_the_matrix_of_its_filters():
    kernel = normal(3, 3, 4, 8)
    found = update({"kernel": kernel}, 3)["kernel"]
    np.testing.assert_allclose(found.reshape(36, 8), update({"kernel": kernel.reshape(36, 8)}, 3)["kernel"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7,), (1, 5, 8), (3, 3, 1, 8), ()], ids=str)
def test_adam_moves_biases_tokens_and_depthwise_kernels(shape):
    gradient = {"other": normal(*shape)}
    tx = optax.adamw(RATE, weight_decay=0.3)
    params = jax.tree.map(jnp.ones_like, gradient)
    expected, _ = tx.update(gradient, tx.init(params), params)
    found = update(gradient, weight_decay=np.float32(0.3))["other"]
    np.testing.assert_allclose(found, expected["other"], rtol=1e-5, atol=1e-7)


def test_the_decay_is_decoupled_and_masked():
    gradients = {"kernel": normal(4, 4), "bias": normal(4)}
    plain = update(gradients)
    decayed = update(gradients, weight_decay=np.float32(0.5), mask=lambda tree: {"kernel": True, "bias": False})
    np.testing.assert_allclose(decayed["kernel"], plain["kernel"] - RATE * np.float32(0.5), atol=1e-7)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
