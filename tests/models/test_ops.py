"""The operations below the seam: plain on every platform but the CPU, and the same numbers in the CPU's words."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import ops, traces

OURS = {"convolution", "sum_over_pixels", "spread_over_pixels", "stored"}
CONVOLUTIONS = {  # input [B, H, W, C], kernel, stride, groups
    "few channels": ((2, 5, 8, 3), (3, 3, 3, 16), 1, 1),
    "narrow": ((2, 5, 6, 16), (3, 3, 16, 8), 1, 1),
    "stride": ((2, 5, 6, 4), (3, 3, 4, 3), 2, 1),
    "1x1": ((2, 4, 6, 4), (1, 1, 4, 3), 2, 1),
    "depthwise": ((2, 4, 5, 4), (3, 3, 1, 4), 1, 4),
    "depthwise, stride": ((2, 6, 7, 4), (3, 3, 1, 4), 2, 4),
    "groups": ((2, 5, 6, 12), (3, 3, 4, 9), 2, 3),
}


def draw(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), dtype)


def numbers(function, a, b):
    """Values, first and second derivatives of a bilinear function, by a loss that is not linear."""

    def loss(a, b):
        return jnp.sum(jnp.sin(function(a, b)))

    def steep(a, b):
        return sum(jnp.sum(g * g) for g in jax.grad(loss, (0, 1))(a, b))

    gradient = jax.grad(loss, (0, 1))
    return {
        "value": function(a, b),
        "gradient": gradient(a, b),
        "second": jax.grad(steep, (0, 1))(a, b),
        "forward over reverse": jax.jvp(gradient, (a, b), (a, b))[1],
    }


def mapped(function, a, b):
    """The same for the forms under `vmap`."""

    def loss(a, b):
        return jnp.sum(jnp.sin(function(a, b)))

    gradient, two = jax.grad(loss, (0, 1)), (jnp.stack([a, 2 * a]), jnp.stack([b, -b]))
    return {
        "both mapped": jax.vmap(function)(*two),
        "one mapped": (jax.vmap(function, (0, None))(two[0], b), jax.vmap(function, (None, 0))(a, two[1])),
        "gradients mapped": jax.vmap(gradient)(*two),
        "gradients of one mapped": jax.vmap(gradient, (0, None))(two[0], b),
        "mapped twice": jax.vmap(jax.vmap(gradient, (0, None)), (None, 0))(*two),
    }


def same(numbers, function, a, b, tolerance):
    """`numbers` in the CPU's words and in plain ones: shapes, dtypes and, to `tolerance` in the L2 norm, values."""
    program = jax.jit(lambda a, b: numbers(function, a, b))
    found = program(a, b)
    with ops.plain():
        expected = program(a, b)
    for name, parts in expected.items():
        for one, other in zip(jax.tree.leaves(found[name]), jax.tree.leaves(parts), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype), name
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other), name


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_the_plain_ones_with_all_derivatives(case):
    x, kernel, stride, groups = CONVOLUTIONS[case]
    same(numbers, lambda x, k: ops.convolve(x, k, stride, groups), draw(x), draw(kernel, 1) / kernel[2] ** 0.5, 2e-6)


@pytest.mark.parametrize("case", ["few channels", "groups"])
def test_mapped_convolutions_are_the_plain_ones(case):
    x, kernel, stride, groups = CONVOLUTIONS[case]
    same(mapped, lambda x, k: ops.convolve(x, k, stride, groups), draw(x), draw(kernel, 1) / kernel[2] ** 0.5, 2e-6)


@pytest.mark.parametrize("shape", [(3, 4, 3, 5), (6, 5), (32, 64, 32, 1)], ids=str)
def test_sums_over_pixels_are_the_plain_ones_with_all_derivatives(shape):
    def normed(x, c):
        return ops.kept(x * x - ops.mean(x)) * ops.spread(c, x.shape)

    with jax.enable_x64(True):  # the sums cancel
        arrays = draw(shape, 0, jnp.float64), draw(shape[-1:], 1, jnp.float64)
        same(lambda *all: numbers(*all) | mapped(*all), normed, *arrays, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 0.05), (jnp.float64, 1e-13)])
def test_other_types_of_numbers_are_kept(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        for case in ("few channels", "depthwise"):
            x, kernel, stride, groups = CONVOLUTIONS[case]
            x, kernel = draw(x, 0, dtype), draw(kernel, 1, dtype)
            found, back = jax.jit(lambda x, k, s=stride, g=groups: jax.vjp(lambda x: ops.convolve(x, k, s, g), x))(
                x, kernel
            )
            assert {found.dtype, back(found)[0].dtype} == {jnp.dtype(dtype)}
            expected = ops.xla_convolve(x, kernel, stride, groups)
            assert jnp.linalg.norm((found - expected).ravel()) <= tolerance * jnp.linalg.norm(expected.ravel())


def test_a_convolution_has_a_transpose():
    x, kernel = draw((2, 4, 6, 3)), draw((3, 3, 3, 8), 1)
    (back,) = jax.linear_transpose(lambda x: ops.convolve(x, kernel), x)(draw((2, 4, 6, 8), 2))
    (expected,) = jax.linear_transpose(lambda x: ops.xla_convolve(x, kernel), x)(draw((2, 4, 6, 8), 2))
    np.testing.assert_allclose(back, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def training():
    """(gradient of a ResNet8's training loss, as a function of parameters and images; their shapes)."""
    model, images = models.create("ResNet8", 10), jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(variables, images):
        return jnp.sum(models.forward(model, variables, images, train=True)[0].logits ** 2)

    return jax.grad(loss), (variables, images)


@pytest.mark.slow
def test_a_program_for_another_platform_is_that_platforms(training):
    gradient, arguments = training
    traced = jax.jit(gradient).trace(*arguments)
    with ops.plain():
        plain = jax.jit(gradient).trace(*arguments)
    for platform in ("tpu", "cuda", "rocm"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text == plain.lower(lowering_platforms=(platform,)).as_text()
        assert "optimization_barrier" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("optimization_barrier") > 50
    assert "optimization_barrier" not in plain.lower(lowering_platforms=("cpu",)).as_text()


def test_plain_traces_have_operations_of_jax_alone(training):
    gradient, arguments = training
    assert traces.primitives(jax.make_jaxpr(gradient)(*arguments).jaxpr).keys() >= OURS
    with ops.plain():
        assert not traces.primitives(jax.make_jaxpr(gradient)(*arguments).jaxpr).keys() & OURS


def test_mapped_traces_have_operations_of_jax_alone(training):
    gradient, arguments = training
    stacked = [jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), tree) for tree in arguments]
    assert not traces.primitives(jax.make_jaxpr(jax.vmap(gradient))(*stacked).jaxpr).keys() & OURS


def test_a_compiled_function_is_traced_again_in_plain_operations():
    seen = []

    @jax.jit
    def double_mean(x):
        seen.append(x)
        return 2 * ops.mean(x)

    double_mean(jnp.ones((2, 3)))
    with ops.plain():
        double_mean(jnp.ones((2, 3)))
    double_mean(jnp.ones((2, 3)))
    assert len(seen) == 2


@pytest.mark.slow
def test_the_environment_makes_a_whole_process_plain():
    program = "import jax; from models import ops; print('stored' in str(jax.make_jaxpr(ops.kept)(1.0)))"
    environment = {**os.environ, "KD_CPU_TUNING": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("wrong", [(3, 3, 8, 16), (3, 3, 16)])
def test_a_wrong_kernel_raises_where_it_is_traced(wrong):
    with pytest.raises((TypeError, ValueError)):
        jax.eval_shape(ops.convolve, jnp.ones((2, 8, 8, 16)), jnp.ones(wrong))


def test_an_explicit_mesh_is_followed():
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))):
        x = jax.device_put(draw((2, 5, 8, 16)), jax.sharding.PartitionSpec("data"))
        kernel = jax.device_put(draw((3, 3, 16, 16)), jax.sharding.PartitionSpec())
        gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(ops.convolve(x, kernel) ** 2), (0, 1)))
        assert all(np.isfinite(part).all() for part in gradient(x, kernel))


def test_the_norm_of_a_tree_is_that_of_all_its_numbers():
    tree = {"a": draw((3, 4)), "b": [draw((5,), 1), draw((), 2)]}
    expected = np.linalg.norm(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]))
    np.testing.assert_allclose(ops.norm(tree), expected, rtol=1e-6)
