"""Fake quantisation: the right numbers, the derivative of float, every layer or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax import traverse_util

import models
from models import Player, layers, ops, quantization
from registry import UserError

SHAPE = (8, 8, 1)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def test_inputs_are_rounded_to_the_integers_that_qwix_finds():
    """qwix 0.1.8: quantize(x, jnp.int8, channelwise_axes=[0], calibration_method="minmax"); zero points 21 and 10."""
    x = np.random.RandomState(1).standard_normal((2, 6)).astype(np.float32)
    integers = np.array([[127, -19, -13, -49, 77, -128], [127, -41, 31, -7, 108, -128]]) - [[21], [10]]
    scales = np.array([[0.01539563], [0.01492138]])
    found = quantization.inputs(x, *quantization.image_range(x))
    np.testing.assert_allclose(found, integers * scales, rtol=1e-5)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_each_channel_of_a_kernel_has_its_own_scale_and_reaches_the_ends(bits, most):
    kernel = np.random.RandomState(0).standard_normal((3, 3, 2, 5)).astype(np.float32) * [1, 10, 0.1, 1, 0]
    integers, scale = quantization.integer_weights(jnp.asarray(kernel, jnp.float32), bits)
    assert np.array_equal(integers, np.round(integers))
    np.testing.assert_array_equal(np.abs(integers).max(axis=(0, 1, 2)), [most] * 4 + [0])
    assert (np.abs(kernel - integers * scale) <= 0.5001 * scale).all()


def test_folding_a_batch_norm_changes_no_integer():
    random = np.random.RandomState(0)
    kernel = jnp.asarray(random.standard_normal((3, 3, 4, 6)), jnp.float32)
    factor = jnp.asarray(random.uniform(0.2, 3, 6) * [1, -1, 1, -1, 1, 1], jnp.float32)
    (before, _), (after, _) = (quantization.integer_weights(x, 8) for x in (kernel, kernel * factor))
    np.testing.assert_array_equal(after, before * jnp.sign(factor))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_multiplies_rounded_numbers_and_has_the_derivative_of_float(groups):
    random = np.random.RandomState(0)
    x = jnp.asarray(random.standard_normal((2, 6, 6, 4)), jnp.float32)
    conv = layers.Conv(4, 3, groups=groups)
    kernel = jnp.asarray(random.standard_normal((3, 3, 4 // groups, 4)), jnp.float32)

    def run(model, kernel, x):
        return model.apply({"params": {"kernel": kernel}}, x)

    @jax.jit
    def compare(kernel, x):
        """Outputs (whole, by hand, float); then derivatives by the kernel, in which a convolution is linear."""
        rounded = quantization.inputs(x, *quantization.image_range(x)), quantization.weights(kernel, 4)
        outputs = run(whole, kernel, x), ops.convolve(*rounded, 1, groups), run(conv, kernel, x)
        by_hand = jax.grad(lambda k: ops.convolve(rounded[0], k, 1, groups).sum())(kernel)
        return outputs, (jax.grad(lambda k: run(whole, k, x).sum())(kernel), by_hand)

    whole = quantization.quantised(conv, "int4")
    (found, wanted, floats), derivatives = compare(kernel, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)
    assert np.abs(found - floats).max() > 0.01
    np.testing.assert_allclose(*derivatives, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_quantised_network_is_another_network_with_the_same_variables_and_equal_to_its_like():
    plain, whole, like = (models.create("CNN", 10, **options) for options in ({}, *[{"quantize": "int8"}] * 2))
    assert whole == like
    assert hash(whole) == hash(like)
    assert whole not in (plain, models.create("CNN", 10, quantize="int4"))
    assert quantization.plain_of(whole) == plain
    assert quantization.arithmetic({}) == "float32"
    variables = drawn(plain, jnp.zeros((1, *SHAPE)), seed=1)
    shapes = [jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *SHAPE))) for net in (plain, whole)]
    assert shapes[0] == shapes[1]
    images = jnp.asarray(np.random.RandomState(0).standard_normal((4, *SHAPE)), jnp.float32)
    ranges = quantization.layer_ranges(plain, variables, images)
    assert len(ranges) == 5
    spec = {"bits": 8, "ranges": {name: [float(low), float(high)] for name, (low, high) in ranges.items()}}
    static = models.create("CNN", 10, quantize=spec)

    @jax.jit
    def run(variables, images):
        floats, *outputs = (models.forward(net, variables, images)[0] for net in (plain, whole, static))
        return floats.logits, [(o.logits, o.classify(o.features["embedding"])) for o in outputs]

    floats, outputs = run(variables, images)
    _, turned = run(variables, images[::-1])
    for (logits, again), (backwards, _) in zip(outputs, turned, strict=True):
        assert 1e-4 < np.abs(logits - floats).max() < 0.05 * np.abs(floats).max()
        np.testing.assert_allclose(backwards[::-1], logits, rtol=1e-5, atol=1e-5)  # an image's logits are its own
        np.testing.assert_allclose(again, logits, rtol=1e-6, atol=1e-6)  # the classifier alone rounds, too


@pytest.mark.parametrize(
    ("name", "count"), [("VGG8", 6), slow("MobileNetV2", 54), slow("ShuffleNetV1", 50), ("Projected", 13)]
)
def test_every_layer_with_a_kernel_is_reached(name, count):
    player = Player("student", models.create(name, 10, quantize="int8"), (0.5,), (0.5,))
    (line,) = quantization.report(player, (32, 32, 1))
    assert f"{count} layers, weights of 8 bits" in line
    paths = traverse_util.flatten_dict(jax.eval_shape(player.model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1))))
    assert sum(path[-1] == "kernel" for path in paths) == count


def test_a_network_with_layers_that_would_stay_float_is_refused_and_so_are_wrong_options():
    player = Player("student", models.create("ViT_Ti", 10, depth=4, patch_size=4, quantize="int8"), (0.5,), (0.5,))
    with pytest.raises(UserError, match=r"The student \(ViT\) cannot be quantised: 18 of its 18 kernels would stay"):
        quantization.report(player, SHAPE)
    with pytest.raises(UserError, match="'int7'"):
        models.create("ResNet8", 10, quantize="int7")
    with pytest.raises(UserError, match="bits"):
        models.create("ResNet8", 10, quantize={"bits": 8, "ranges": {"stem_conv": [1.0, 2.0]}})
    other = models.create("ResNet8", 10, quantize={"bits": 8, "ranges": {"stem_conv": [-1.0, 2.0]}})
    with pytest.raises(UserError, match="no range for the input of stage1_block0/conv1"):
        jax.eval_shape(other.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
