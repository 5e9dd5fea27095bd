"""Every method takes every pair of networks, or refuses it for a reason that stands here. Nothing is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
import models

PAIRS = [  # student, teacher: every family once, maps and tokens, three, four and five stages
    ("VGG8", "WRN_16_1"),
    ("MobileNetV2", "ViT_Ti"),
    ("ViT_Ti", "ResNet8x4"),
    ("ShuffleNetV2", "ConvNeXt_T"),
]
NO_ACTIVATION = r"The (student|teacher) has no taps stage1_preact .*'stage1'.*Take a network that has them"
# (method, network on either side) -> why the method refuses, and what it says
NO_POOLED_MAP = ("ViT_Ti", "ConvNeXt_T")  # a class token, a norm after the mean
NO_CLASS_MAPS = r"Class activation maps need a tap `final`.*Take GradCAM"
NO_FINAL = r"The (student|teacher)'s embedding is not the mean of a map .*Use a network that pools one"
TWO_HEADS = r"DeiT teaches a student with two heads .*Take a ViT with --config.student_options.distilled=True"
NO_PROJECTOR = r"SimKD teaches a student with a projector .*Take --student_arch Projected"
NO_BLOCKS = r"(ViTKD|MiniLM) reads the blocks of a transformer \(taps (block|qkv)1, .*\nUse two ViTs, or"
CONVOLUTIONAL = ("VGG8", "MobileNetV2", "ShuffleNetV2", "ResNet8x4")
REFUSED = {
    **{("SDD", network): NO_FINAL for network in NO_POOLED_MAP},
    **{(name, network): NO_CLASS_MAPS for name in ("ExpKD", "CATKD") for network in NO_POOLED_MAP},
    **{("SimKD", network): NO_PROJECTOR for network in ("VGG8", "ViT_Ti")},
    **{("SimKD", student): r"SimKD needs a teacher whose embedding .*" for student in ("MobileNetV2", "ShuffleNetV2")},
    **{("DeiT", network): TWO_HEADS for network in ("VGG8", "MobileNetV2", "ShuffleNetV2")},
    ("AB", "ViT_Ti"): NO_ACTIVATION,  # no ReLU after the residual stream, so no activation boundary
    ("OFD", "ViT_Ti"): NO_ACTIVATION,  # and nothing that a ReLU removes
    **{(name, network): NO_BLOCKS for name in ("ViTKD", "MiniLM") for network in CONVOLUTIONAL},
}
IMAGE = (4, 32, 32, 3)


# as many taps, less to trace; the ViT has DeiT's two heads
OPTIONS = {"ViT_Ti": {"depth": 4, "distilled": True}, "ConvNeXt_T": {"blocks": (1, 1, 1, 1)}}
TAPS = tuple({tap: None for name in distiller.names() for tap in distiller.create(name).gradient_taps})


@functools.cache
def variables(network):
    """The network and the shapes of its variables."""
    model = models.create(network, 10, **OPTIONS.get(network, {}))
    return model, jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(IMAGE, jnp.float32))


@functools.cache
def answers(network, with_gradients):
    """Shapes and types of the network's `Outputs` for IMAGE, with gradients to all taps that a method reads or none."""
    model, weights = variables(network)
    forward = functools.partial(models.forward, model, gradient_taps=TAPS if with_gradients else ())
    return jax.eval_shape(lambda v, x: forward(v, x)[0], weights, jax.ShapeDtypeStruct(IMAGE, jnp.float32))


def loss_shapes(name, student, teacher):
    """Shapes of (loss, terms)."""
    method = distiller.create(name)
    further = len(method.views) - 1
    seen = [answers(network, bool(method.gradient_taps)) for network in (student, teacher)]
    seen = [outputs.replace(views=(outputs,) * further) for outputs in seen]
    numbers = jax.ShapeDtypeStruct(IMAGE[:1], jnp.int32)
    image, epoch = jax.ShapeDtypeStruct(IMAGE, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    batch = data.Batch(image, numbers, numbers, epoch, views=(image,) * further, examples=50)
    keys = {"params": jax.random.key(0), "method": jax.random.key(1)}
    return jax.eval_shape(lambda *x: method.init_with_output(keys, *x)[0], *seen, batch)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair))
@pytest.mark.parametrize("name", distiller.names())
def test_a_method_takes_any_two_networks_or_says_why_not(name, pair):
    reasons = [REFUSED[name, network] for network in pair if (name, network) in REFUSED]
    if reasons:
        with pytest.raises(ValueError, match=f"(?s){reasons[0]}"):
            loss_shapes(name, *pair)
        return
    loss, terms = loss_shapes(name, *pair)
    assert {(x.shape, x.dtype) for x in (loss, *terms.values())} == {((), np.dtype("float32"))}


def test_every_refusal_is_of_a_method_and_a_network_here():
    networks = {network for pair in PAIRS for network in pair}
    assert all(name in distiller.names() and network in networks for name, network in REFUSED)
