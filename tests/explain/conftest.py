"""Tiny networks with weights large enough for their maps to differ, and subjects for which the right maps are known."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

import data
import models
import pretrained
from explain.subject import Subject
from models import forward


@pytest.fixture(scope="session")
def network():
    """Name -> model, variables, images and targets at 8x8x3; "ViT" has two blocks.

    `outputs()` returns the network's `Outputs` with gradients at the attention or at the stages, computed once for all
    tests.
    """

    @functools.cache
    def build(name):
        transformer, scale = name.startswith("ViT"), 1.0
        if transformer:
            shape = {"width": 16, "heads": 2, "depth": 2, "stages": 2, "patch_size": 2}
            model, scale = models.create("ViT_Ti", 5, distilled=name == "ViT distilled", **shape), 1.5
        else:
            model = models.create(name, 5)
        images = np.random.RandomState(3).standard_normal((3, 8, 8, 3)).astype(np.float32)
        variables = drawn(model, images, 4, scale, biases=True)
        taps = (models.ATTENTION,) if transformer else ("stage1", "stage3")

        @functools.cache
        def outputs():
            return jax.jit(lambda v, x: forward(model, v, x, gradient_taps=taps)[0])(variables, images)

        target = np.array([1, 4, 2], np.int32)
        return types.SimpleNamespace(model=model, variables=variables, images=images, target=target, outputs=outputs)

    return build


class Halves(nn.Module):
    """Two classes: the brightness of the upper half against 0.5, as bare logits."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param("scale", nn.initializers.constant(10.0), ())
        score = scale * images[:, : images.shape[1] // 2].mean(axis=(1, 2, 3))
        return jnp.stack([score, -score], axis=1)


def input_gradient(model, variables, images, target):
    """|d logit of the target / d input|, summed over channels: a stand-in for a map of the library."""

    def logit(x):
        logits = forward(model, variables, x)[0].logits
        return jnp.take_along_axis(logits, target[:, None], axis=1).sum()

    return jnp.abs(jax.grad(logit)(images)).sum(axis=-1)


def brightness(model, variables, images, target):
    """A map that does not depend on the network."""
    return images.mean(axis=-1)


@pytest.fixture(scope="session")
def halves():
    """A `Subject` of `Halves`, 24 images [N, 8, 8, 1] uint8, their labels and the masks of the half that matters."""
    subject = Subject("halves", Halves(), {"params": {"scale": np.float32(10)}, "batch_stats": {}}, (0.3,), (0.5,))
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (24, 8, 8, 1)).astype(np.uint8)
    images[:, :4] = random.randint(0, 256, (24, 1, 1, 1)) // 2 + images[:, :4] // 2
    masks = np.zeros((24, 8, 8), bool)
    masks[:, :4] = True
    labels = subject.answers(images)[0].argmax(axis=1)
    return types.SimpleNamespace(subject=subject, images=images, labels=labels, masks=masks)


@pytest.fixture(scope="session")
def trained():
    """A trained network for Digits as a `Subject`, with 40 test images and their labels."""
    weights, test = pretrained.load("tests/teacher"), data.load("Digits").test
    model = models.create(weights.info["arch"], weights.info["num_classes"])
    subject = Subject("teacher", model, pretrained.check(weights, model), weights.info["mean"], weights.info["std"])
    return types.SimpleNamespace(subject=subject, images=test.images[:40], labels=test.labels[:40])


@pytest.fixture(scope="session")
def stand_ins():
    return types.SimpleNamespace(input_gradient=input_gradient, brightness=brightness)
