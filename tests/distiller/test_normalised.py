import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distiller.normalised import Linear, batch_normalised, last_stages, unit
from models import Outputs

X = np.random.RandomState(0).standard_normal((3, 4, 5, 6))


def test_unit_is_numpys_over_any_axes():
    found = unit(jnp.asarray(X, jnp.float32), (1, 2))
    np.testing.assert_allclose(found, X / np.sqrt(np.square(X).sum((1, 2), keepdims=True)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 1e-13, 1e-30])
def test_what_is_too_small_for_a_direction_is_zero_without_gradient(size):
    x = jnp.full((2, 3), size).at[1].set(2.0)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(unit(x) * jnp.array([1.0, 2.0, 3.0])))(x)
    assert np.isfinite(value)
    assert not gradient[0].any()
    assert gradient[1].any()
    assert not unit(x)[0].any()


def test_batch_normalised_is_numpys_per_channel():
    found = batch_normalised(jnp.asarray(X, jnp.float32), 1e-4)
    expected = (X - X.mean((0, 1, 2))) / np.sqrt(X.var((0, 1, 2)) + 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not batch_normalised(jnp.ones((4, 3))).any()


@pytest.mark.slow
def test_linear_computes_in_the_type_of_its_input():
    with jax.enable_x64(True):
        x = jnp.asarray(X[:, 0, 0])
        layer = Linear(2)
        variables = layer.init(jax.random.key(0), x)
        kernel, bias = (np.asarray(variables["params"][name], np.float64) for name in ("kernel", "bias"))
        found = layer.apply(variables, x)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, X[:, 0, 0] @ kernel + bias, rtol=1e-12)
    assert np.abs(kernel).max() <= 6**-0.5
    assert "bias" not in Linear(2, use_bias=False).init(jax.random.key(0), jnp.ones((1, 6)))["params"]


def test_the_last_stages_come_in_depth_order():
    features = {f"stage{i}": jnp.full((1, 1), i) for i in (1, 2, 10, 9)}
    found = last_stages(Outputs(jnp.zeros((1, 1)), features), "student", 2)
    assert [int(x[0, 0]) for x in found] == [9, 10]
    with pytest.raises(ValueError, match=r"The student has 4 taps.*at least 5"):
        last_stages(Outputs(jnp.zeros((1, 1)), features), "student", 5)
