"""Every method takes every pair of networks, or refuses it for a reason that stands here. Nothing is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
import models

PAIRS = [  # student, teacher
    ("ResNet8", "ResNet8x4"),
    ("MobileNetV2", "ResNet8x4"),
    ("ShuffleNetV2", "WRN_16_1"),
    ("VGG8", "ResNet8"),
    ("ViT_Ti", "ResNet8"),
    ("ResNet8", "ViT_Ti"),
    ("ResNet8", "ConvNeXt_T"),
]
NO_ACTIVATION = r"The (student|teacher) has no taps stage1_preact .*'stage1'.*Take a network that has them"
# (method, network on either side) -> why the method refuses, and what it says
NO_FINAL = r"The (student|teacher)'s embedding is not the mean of a map .*Use a network that pools one"
REFUSED = {
    ("SDD", "ViT_Ti"): NO_FINAL,
    ("SDD", "ConvNeXt_T"): NO_FINAL,
    ("AB", "ViT_Ti"): NO_ACTIVATION,  # no ReLU after the residual stream, so no activation boundary
    ("OFD", "ViT_Ti"): NO_ACTIVATION,  # and nothing that a ReLU removes
}
IMAGE = (4, 32, 32, 3)


@functools.cache
def answers(network, taps):
    """Shapes and types of the network's `Outputs` for IMAGE, with gradients to these taps."""
    model = models.create(network, 10)

    def forward(image):
        return models.forward(model, model.init(jax.random.key(0), image), image, gradient_taps=taps)[0]

    return jax.eval_shape(forward, jax.ShapeDtypeStruct(IMAGE, jnp.float32))


def loss_shapes(name, student, teacher):
    """Shapes of (loss, terms), and the method's variables before and after."""
    method = distiller.create(name)
    further = len(method.views) - 1
    seen = [answers(network, method.gradient_taps) for network in (student, teacher)]
    seen = [outputs.replace(views=(outputs,) * further) for outputs in seen]
    numbers = jnp.arange(IMAGE[0], dtype=jnp.int32)
    image = jnp.zeros(IMAGE)
    batch = data.Batch(image, numbers, numbers, jnp.float32(0), views=(image,) * further, examples=50)

    def run(student, teacher, batch):
        variables = method.init({"params": jax.random.key(0), "method": jax.random.key(1)}, student, teacher, batch)
        memory = {key: value for key, value in variables.items() if key != "params"}
        rngs = {"method": jax.random.key(2)}
        result, kept = method.apply(variables, student, teacher, batch, rngs=rngs, mutable=list(memory))
        return result, memory, dict(kept)

    return jax.eval_shape(run, *seen, batch)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair))
@pytest.mark.parametrize("name", distiller.names())
def test_a_method_takes_any_two_networks_or_says_why_not(name, pair):
    reasons = [REFUSED[name, network] for network in pair if (name, network) in REFUSED]
    if reasons:
        with pytest.raises(ValueError, match=f"(?s){reasons[0]}"):
            loss_shapes(name, *pair)
        return
    (loss, terms), before, after = loss_shapes(name, *pair)
    assert {(x.shape, x.dtype) for x in (loss, *terms.values())} == {((), np.dtype("float32"))}
    assert before == after


def test_every_refusal_is_of_a_method_and_a_network_here():
    networks = {network for pair in PAIRS for network in pair}
    assert all(name in distiller.names() and network in networks for name, network in REFUSED)
