import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import distiller
from distiller.vid import gaussian_nll
from models import Outputs

RANDOM = np.random.RandomState(0)
STUDENT = Outputs(jnp.zeros((4, 2)), {"stage1": jnp.asarray(RANDOM.standard_normal((4, 6, 6, 3)), jnp.float32)})
TEACHER = Outputs(jnp.zeros((4, 2)), {"stage1": jnp.asarray(RANDOM.standard_normal((4, 3, 3, 5)), jnp.float32)})


@pytest.fixture(scope="module")
def method():
    return distiller.create("VID")


@pytest.fixture(scope="module")
def variables(method, batch):
    return jax.jit(method.init)(jax.random.key(0), STUDENT, TEACHER, batch)


@pytest.mark.slow
def test_it_is_scipys_density_up_to_the_constant():
    mean, target = RANDOM.standard_normal((2, 3, 2, 2, 4))
    variance = RANDOM.uniform(0.1, 3, 4)
    expected = -norm.logpdf(target, mean, np.sqrt(variance)).mean() - 0.5 * np.log(2 * np.pi)
    found = gaussian_nll(jnp.float32(mean), jnp.float32(target), jnp.float32(variance))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_method_is_three_convolutions_and_a_variance_that_begins_at_five(method, variables, batch):
    raw = np.asarray(variables["params"]["Gaussian_0"]["raw_variance"], np.float64)
    assert raw.shape == (5,)
    np.testing.assert_allclose(np.log1p(np.exp(raw)) + 1e-5, 5, rtol=1e-6)
    x = np.asarray(STUDENT.features["stage1"], np.float64).reshape(4, 3, 2, 3, 2, 3).mean((2, 4))
    for layer in range(3):
        kernel = np.asarray(variables["params"]["Gaussian_0"][f"Conv_{layer}"]["kernel"], np.float64)
        assert kernel.shape == (1, 1, 5 if layer else 3, 5)
        x = (np.maximum(x, 0) if layer else x) @ kernel[0, 0]
    expected = 0.5 * (((x - np.asarray(TEACHER.features["stage1"])) ** 2).mean() / 5 + np.log(5))
    found, _ = method.apply(variables, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_variance_learns_towards_the_mean_squared_error(method, variables, batch):
    """With the regressor held, the best variance of a channel is its mean squared error: there its slope is 0."""
    convolutions = {k: v for k, v in variables["params"]["Gaussian_0"].items() if k.startswith("Conv")}

    def loss(raw, target):
        params = {"Gaussian_0": {**convolutions, "raw_variance": raw}}
        return method.apply({"params": params}, STUDENT, TEACHER.replace(features={"stage1": target}), batch)[0]

    target = TEACHER.features["stage1"] * jnp.arange(1.0, 6.0)
    x = np.asarray(STUDENT.features["stage1"]).reshape(4, 3, 2, 3, 2, 3).mean((2, 4))
    for layer in range(3):
        x = (np.maximum(x, 0) if layer else x) @ np.asarray(convolutions[f"Conv_{layer}"]["kernel"])[0, 0]
    best, slope = ((x - np.asarray(target)) ** 2).mean((0, 1, 2)), jax.jit(jax.grad(loss))
    assert (best < 5).any()
    assert (best > 5).any()
    at_start = slope(variables["params"]["Gaussian_0"]["raw_variance"], target)
    np.testing.assert_array_equal(np.sign(at_start), np.sign(5 - best))
    at_best = slope(jnp.float32(np.log(np.expm1(best - 1e-5))), target)
    assert np.abs(at_best).max() < 1e-4 * np.abs(at_start).max()


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 4, 4, 1\)"):
        gaussian_nll(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 1)), jnp.ones(3))
