"""The convolution of few channels is XLA's: values, derivatives of any order, many at once, on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers
from models.narrow import convolve, convolve_narrow, pixels_a_row

SHAPES = [(3, 16, 8), (16, 16, 8), (16, 16, 6), (16, 3, 4), (5, 7, 6), (8, 8, 5), (1, 30, 12)]  # in, out, columns


def operands(channels, features, columns, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(0), (2, 5, columns, channels), dtype)
    return x, jax.random.normal(jax.random.key(1), (3, 3, channels, features), dtype) / channels**0.5


def numbers(function, x, kernel):
    """What anyone may ask of a bilinear function, through a loss that is not linear in it."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(function(x, kernel)))

    def steep(x, kernel):
        return sum(jnp.sum(g * g) for g in jax.grad(loss, (0, 1))(x, kernel))

    gradient = jax.grad(loss, (0, 1))
    two = (jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel]))
    return {
        "value": function(x, kernel),
        "gradient": gradient(x, kernel),
        "second": jax.grad(steep, (0, 1))(x, kernel),
        "forward over reverse": jax.jvp(gradient, (x, kernel), (x, kernel))[1],
        "both mapped": jax.vmap(function)(*two),
        "images mapped": jax.vmap(function, (0, None))(two[0], kernel),
        "kernels mapped": jax.vmap(function, (None, 0))(x, two[1]),
        "gradients mapped": jax.vmap(gradient)(*two),
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_values_and_derivatives(shape):
    x, kernel = operands(*shape)
    expected = numbers(convolve, x, kernel)
    for found in (
        numbers(convolve_narrow, x, kernel),
        jax.jit(lambda *both: numbers(convolve_narrow, *both))(x, kernel),
    ):
        for name, parts in expected.items():
            for one, other in zip(jax.tree.leaves(found[name]), jax.tree.leaves(parts), strict=True):
                assert one.dtype == other.dtype
                assert np.linalg.norm(one - other) <= 2e-6 * np.linalg.norm(other), name


def test_half_precision_stays_half_precision():
    x, kernel = operands(16, 16, 8, jnp.bfloat16)
    found, expected = convolve_narrow(x, kernel), convolve(x, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((3, 16, 32), 4),
        ((64, 3, 32), 4),
        ((3, 16, 6), 2),
        ((3, 16, 7), 1),
        ((16, 16, 32), 2),
        ((24, 24, 32), 2),
        ((25, 25, 32), 1),
        ((16, 32, 32), 1),
        ((32, 16, 32), 1),
        ((64, 64, 8), 1),
    ],
)
def test_so_many_pixels_share_a_row(shape, pixels):
    x, kernel = operands(*shape)
    assert pixels_a_row(x.shape, kernel.shape) == pixels
    assert pixels_a_row(x.shape, (1, 1, *kernel.shape[2:])) == 1


def test_it_is_taken_on_cpus_and_only_where_it_is_the_same(monkeypatch):
    def program(size, stride=1, groups=1, channels=4):
        layer = layers.Conv(8, size, stride, groups)
        x = jnp.ones((2, 8, 8, channels))
        return str(jax.make_jaxpr(lambda x: layer.init_with_output(jax.random.key(0), x)[0])(x))

    monkeypatch.setattr(layers, "on_cpu", lambda: True)
    assert "convolve_narrow" in program(3)
    others = [program(1), program(5), program(3, stride=2), program(3, groups=2), program(3, channels=32)]
    assert not any("convolve_narrow" in other for other in others)
    monkeypatch.setattr(layers, "on_cpu", lambda: False)
    assert "convolve_narrow" not in program(3)


def test_no_derivative_dilates_an_image():
    """XLA:CPU has no fast convolution for one that does: that is what the primitive is for."""
    x, kernel = operands(16, 16, 8)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolve_narrow(x, kernel)))

    gradient = jax.grad(loss, (0, 1))
    assert str(jax.make_jaxpr(gradient)(x, kernel)).count("= convolve_narrow") == 2  # forward, and by the input
    text = jax.jit(gradient).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert text.count("hs_dilate = [1, 1]") == 6


@pytest.mark.parametrize("wrong", [(3, 3, 8, 16), (3, 1, 16, 16), (5, 5, 16, 16)])
def test_a_wrong_kernel_is_told_at_once(wrong):
    with pytest.raises(TypeError, match=r"\[3, 3, 16, features\]"):
        jax.eval_shape(convolve_narrow, jnp.ones((2, 8, 8, 16)), jnp.ones(wrong))


def test_an_explicit_mesh_is_followed():
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))):
        x, kernel = operands(16, 16, 8)
        x = jax.device_put(x, jax.sharding.PartitionSpec("data"))
        kernel = jax.device_put(kernel, jax.sharding.PartitionSpec())
        gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(convolve_narrow(x, kernel) ** 2), (0, 1)))
        assert all(np.isfinite(part).all() for part in gradient(x, kernel))
