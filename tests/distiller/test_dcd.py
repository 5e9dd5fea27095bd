"""DCD: the two terms by NumPy, and the learned inverse temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.dcd import contrast_and_consistency
from models import Outputs

SIMILARITY = np.random.RandomState(0).standard_normal((5, 5))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def test_the_terms_are_numpys():
    rows, columns = softmax(SIMILARITY), softmax(SIMILARITY.T)
    contrast, consistency = contrast_and_consistency(jnp.asarray(SIMILARITY, jnp.float32))
    np.testing.assert_allclose(contrast, -np.mean(np.log(np.diag(rows))), rtol=1e-5)
    np.testing.assert_allclose(consistency, np.mean(np.sum(columns * np.log(columns / rows), axis=1)), rtol=1e-5)


def test_an_offset_would_change_nothing():
    with_offset = contrast_and_consistency(jnp.asarray(SIMILARITY + 3, jnp.float32))
    np.testing.assert_allclose(with_offset, contrast_and_consistency(jnp.asarray(SIMILARITY, jnp.float32)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("theta", "learns"), [(1.0, True), (np.log(10) + 0.1, False)])
def test_the_inverse_temperature_has_a_limit(theta, learns):
    random = np.random.RandomState(1)
    both = [Outputs(jnp.zeros((5, 2)), {"embedding": jnp.asarray(random.standard_normal((5, 6)), jnp.float32)})] * 2
    method = distiller.create("DCD", feat_dim=4)
    params = jax.jit(method.init)(jax.random.key(0), *both, None)["params"]
    assert params["theta"] == 1

    def loss(theta):
        return method.apply({"params": {**params, "theta": theta}}, *both, None)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.float32(theta))
    assert (gradient != 0) == learns
    assert learns or value == loss(jnp.float32(theta + 5))
