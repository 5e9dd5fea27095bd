"""LiteRT files of quantised weights store integers, and answer as the fake-quantised network does."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from drawn import drawn

import models
import pretrained
from deploy import derived, export, graph, quantize
from deploy.litert_format import LiteRT, is_ready
from registry import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not is_ready(), reason="no environment for LiteRT: python -m deploy.export --to litert makes it"
    ),
]
# name -> options, bits, the largest difference relative to the largest logit
CASES = {
    "ResNet8": ({}, "int8", 1e-5),
    "VGG8": ({"widths": (8, 8, 8, 8, 8)}, "int4", 1e-5),
    "ShuffleNetV1": ({"blocks": (1, 1, 1)}, "int4", 2e-2),  # groups; depthwise convolutions, which stay in 8 bits
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_stores_integers_and_answers_as_the_network(name):
    jax.config.update("jax_disable_most_optimizations", True)  # conftest.py sets it back
    options, kind, tolerance = CASES[name]
    model, images = models.create(name, 5, **options), np.random.RandomState(2).standard_normal((3, 8, 8, 3))
    images = images.astype(np.float32)
    info = {"arch": name, "options": {**options, "quantize": kind}, "num_classes": 5, "class_names": list("abcde")}
    info |= {"dataset": "Digits", "image_shape": [8, 8, 3], "mean": [0.0] * 3, "std": [1.0] * 3, "test_top1": None}
    variables = jax.tree.map(np.asarray, dict(drawn(model, images, seed=1, biases=True)))
    weights = pretrained.Pretrained(pathlib.Path(name), variables, info, "")
    target, stored = LiteRT(), graph.build(weights, integers="image")
    content = target.write(stored)
    expected = dict(zip(("logits",), jax.jit(graph.build(weights).function)(images), strict=True))
    found = dict(zip(("logits",), target.open(content, stored)(images), strict=True))
    assert export.compare(expected, found)["logits"]["relative"] < tolerance
    kernels = sum(np.size(kernel) for _, kernel in stored.layers)
    assert len(content) < 1.5 * kernels + 60_000
    if name == "VGG8":
        turned = dataclasses.replace(stored, layers=(stored.layers[0], *stored.layers[:0:-1]))
        with pytest.raises(
            UserError, match=r"LiteRT cannot quantise this network: .* number 1 does not have the kernel"
        ):
            target.write(turned)


def test_the_command_exports_weights_whose_images_have_their_own_ranges(tmp_path):
    weights = pretrained.load("tests/teacher")
    info, *_ = quantize.quantize(weights, ())
    assert info["options"]["quantize"] == "int8"
    derived.write(tmp_path / "weights", weights.variables, info)
    file = tmp_path / "network.tflite"
    flags = ["--param", str(tmp_path / "weights"), "--to", "litert", "--out", str(file), "--with_preprocessing"]
    facts = export.export(export.parser().parse_args(flags))
    assert facts["arithmetic"].startswith("integer: weights of 8 bits")
    assert facts["bytes"] < 40_000
