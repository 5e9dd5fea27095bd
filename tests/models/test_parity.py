"""Every network of the goldens: parameters, names, taps and, where they are given, numbers of the reference code."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import pretrained

GOLDENS = json.loads((pathlib.Path(__file__).parents[1] / "goldens" / "models.json").read_text())
ALIASES = {"shufflev1": "ShuffleNetV1", "shufflev2": "ShuffleNetV2"}
NAMES = {name.lower(): name for name in models.names()} | ALIASES
NETWORKS = {key: NAMES[key.partition("/")[2].lower()] for key in GOLDENS}  # an absent network fails here
SLOW = {"cifar/resnet56", "cifar/ShuffleV1", "imagenet/ResNet18", "imagenet/MobileNetV1"}
FAST = {"resnet8x4", "resnet20", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"}  # of CIFAR


def counted(entry: dict) -> dict[str, np.ndarray]:
    """A state_dict in which every tensor counts its own entries, so that one laid out wrongly is noticed."""
    return {
        name: np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        for name, shape in entry["state_dict"]
    }


def taps(features: dict, kind: str) -> list:
    """The features that the goldens list under `kind`."""
    if kind == "pooled_feat":
        return [features["embedding"]]
    stem = [features["stem"]] if "stem" in features else []
    return stem + models.stages(features, "_preact" if kind == "preact_feats" else "")


def listed(expected) -> list[dict]:
    return expected if isinstance(expected, list) else [expected]


def close_in_norm(actual, expected, tolerance=1e-4):
    """Entries agree to `tolerance` of the largest expected one."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_there_are_goldens_of_all_families():
    assert len(NETWORKS) == 28
    assert sum("logits" in entry for entry in GOLDENS.values()) == 9


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[pytest.mark.slow] * (key.removeprefix("cifar/") not in FAST)) for key in NETWORKS]
)
def test_names_layouts_numbers_of_parameters_and_shapes_of_taps_are_the_references(key):
    entry = GOLDENS[key]
    model = models.create(NETWORKS[key], entry["num_classes"])
    weights = counted(entry)
    variables = pretrained.from_torch(model, weights)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == entry["params"]
    back = pretrained.to_torch(model, variables)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert back[name].dtype == value.dtype, name
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    size = entry["input_size"]
    outputs = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    assert outputs.logits.shape == (2, entry["num_classes"])
    for kind, expected in entry["features"].items():
        found = [list(x.shape) for x in taps(outputs.features, kind)]
        assert found == [feature["shape"] for feature in listed(expected)], kind


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[pytest.mark.slow] * (key in SLOW))
        for key, entry in GOLDENS.items()
        if "logits" in entry
    ],
)
def test_logits_and_features_are_the_references(key, golden, recipe):
    entry = golden("models")[key]
    model, variables, images = recipe(key, NETWORKS[key])
    outputs = jax.jit(model.apply)(variables, images)
    close_in_norm(outputs.logits, np.asarray(entry["logits"]))
    for kind, expected in entry["features"].items():
        for feature, numbers in zip(taps(outputs.features, kind), listed(expected), strict=True):
            feature = np.asarray(feature, np.float64)
            assert list(feature.shape) == numbers["shape"]
            np.testing.assert_allclose(np.linalg.norm(feature), numbers["l2"], rtol=1e-4)
            np.testing.assert_allclose(feature.mean(), numbers["mean"], rtol=1e-4)
            close_in_norm(feature.reshape(-1)[:4], np.asarray(numbers["first"]))


def test_the_standard_mobilenet_has_torchvisions_parameters():
    model = models.create("MobileNetV2", 1000, stem="imagenet")
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    outputs, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 3504872
    shapes = [x.shape[1:] for x in taps(outputs.features, "feats")]
    assert shapes == [(112, 112, 32), (56, 56, 24), (28, 28, 32), (14, 14, 96), (7, 7, 320)]
    names = pretrained.to_torch(model, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(variables)))
    assert names["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert names["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert names["features.2.conv.0.1.running_var"].shape == (96,)
    assert names["features.17.conv.2.weight"].shape == (320, 960, 1, 1)
    assert names["features.17.conv.3.bias"].shape == (320,)
    assert names["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert names["classifier.1.weight"].shape == (1000, 1280)
    assert len(names) == 52 * 5 + 2  # a kernel and four numbers a channel of each batch norm; one linear layer


@pytest.mark.parametrize(("width", "widths"), [(0.5, [16, 16, 16, 48, 160]), (1.4, [48, 32, 48, 136, 448])])
def test_the_standard_mobilenet_rounds_its_widths_to_eights(width, widths):
    model = models.create("MobileNetV2", 10, stem="imagenet", width=width)
    outputs = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x)[0], jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    )
    assert [x.shape[-1] for x in taps(outputs.features, "feats")] == widths
    assert outputs.features["embedding"].shape == (1, 1792 if width == 1.4 else 1280)
