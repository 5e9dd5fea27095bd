import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distiller.connectors import BatchNorm, Connector, ConvNorm

X = jnp.asarray(np.random.RandomState(0).standard_normal((5, 4, 3, 6)) * 3 + 2, jnp.float32)


def kernels(connector, shape):
    variables = jax.eval_shape(connector.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert set(variables) == {"params"}
    return {path[-2].key: x.shape for path, x in jax.tree_util.tree_leaves_with_path(variables) if x.ndim == 4}


def test_batch_norm_is_that_of_the_batch_and_keeps_no_statistics():
    module = BatchNorm()
    variables = jax.jit(module.init)(jax.random.key(0), X)
    assert set(variables) == {"params"}
    y = module.apply({"params": {"scale": jnp.full(6, 2.0), "bias": jnp.full(6, -1.0)}}, X)
    wide = np.asarray(X, np.float64)
    plain = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, 2 * plain - 1, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_a_constant_is_its_bias():
    constant = jnp.full((2, 2, 2, 3), 7.0)
    module = BatchNorm()
    variables = jax.jit(module.init)(jax.random.key(0), constant)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(module.apply(variables, x)))(constant)
    assert value == 0
    assert np.isfinite(gradient).all()


def test_a_convolution_with_norm_is_the_convolution_normalised():
    layer = ConvNorm(7, 3)
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    assert set(variables) == {"params"}
    norm = {"scale": jnp.full(7, 2.0), "bias": jnp.full(7, 3.0)}
    found = layer.apply({"params": {**variables["params"], "BatchNorm_0": norm}}, X)
    assert found.shape == (5, 4, 3, 7)
    np.testing.assert_allclose(found.mean((0, 1, 2)), 3, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "kind", "kernel"),
    [
        ((8, 8), "Conv_0", (1, 1, 6, 9)),
        ((4, 4), "Conv_0", (3, 3, 6, 9)),
        ((16, 16), "ConvTranspose_0", (4, 4, 6, 9)),
        ((2, 2), "Conv_0", (1, 1, 6, 9)),
        ((8, 4), "Conv_0", (1, 1, 6, 9)),
    ],
)
def test_the_convolution_follows_the_two_resolutions(size, kind, kernel):
    assert kernels(Connector(9, *size), (2, 8, 8, 6)) == {kind: kernel}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_any_resolution_reaches_any_other(rows, columns, height, width):
    x = jax.ShapeDtypeStruct((2, rows, columns, 3), jnp.bfloat16)
    y = jax.eval_shape(lambda x: Connector(5, height, width).init_with_output(jax.random.key(0), x)[0], x)
    assert (y.shape, y.dtype) == ((2, height, width, 5), jnp.float32)


def test_tokens_become_a_map_and_those_in_front_are_left_out():
    tokens = jnp.asarray(np.random.RandomState(1).standard_normal((2, 17, 3)), jnp.float32)
    connector = Connector(5, 4, 4)
    variables = jax.jit(connector.init)(jax.random.key(0), tokens)
    expected = connector.apply(variables, tokens[:, 1:].reshape(2, 4, 4, 3))
    np.testing.assert_array_equal(connector.apply(variables, tokens), expected)
