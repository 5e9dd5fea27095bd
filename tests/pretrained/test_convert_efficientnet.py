"""Published EfficientNets: the names of three projects, the input that travels with the weights, real photographs."""

import json
import os
import pathlib
import re
import tarfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import data
import models
import pretrained
from pretrained import convert
from pretrained.foreign_names import translate
from pretrained.players import dataset_of

SHARED = pathlib.Path(os.environ.get("KD_SHARED_DIR", pathlib.Path(__file__).parents[3] / "shared"))
COUNTS = (1, 2, 2, 3, 3, 4, 1)


def state_of(model) -> dict[str, np.ndarray]:
    """timm's names -> arrays that count their own entries."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(variables))
    return {
        name: np.arange(x.size, dtype=np.float32).reshape(x.shape)
        for name, x in pretrained.to_torch(model, zeros).items()
    }


def lukemelas(name: str) -> str:
    """timm's name -> the one in lukemelas' EfficientNet-PyTorch, spelled from its code."""
    whole = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    module, leaf = name.rsplit(".", 1)
    if module in whole:
        return f"{whole[module]}.{leaf}"
    _, group, block, inside = module.split(".", 3)
    first = group == "0"
    parts = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand", "conv_dw": "_depthwise_conv"}
    parts |= {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"} if first else {}
    parts |= {} if first else {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1", "conv_pwl": "_project_conv"}
    parts |= {} if first else {"bn3": "_bn2"}
    return f"_blocks.{sum(COUNTS[: int(group)]) + int(block)}.{parts[inside]}.{leaf}"


def torchvision(name: str) -> str:
    """timm's name -> torchvision's, spelled from its state_dict."""
    whole = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.8.0", "bn2": "features.8.1"}
    whole["classifier"] = "classifier.1"
    module, leaf = name.rsplit(".", 1)
    if module in whole:
        return f"{whole[module]}.{leaf}"
    _, group, block, inside = module.split(".", 3)
    rows = (
        ["conv_dw bn1", "se", "conv_pw bn2"] if group == "0" else ["conv_pw bn1", "conv_dw bn2", "se", "conv_pwl bn3"]
    )
    for number, row in enumerate(rows):
        if inside.startswith("se."):
            part = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}[inside]
            if row == "se":
                return f"features.{int(group) + 1}.{block}.block.{number}.{part}.{leaf}"
        elif inside in row.split():
            return f"features.{int(group) + 1}.{block}.block.{number}.{row.split().index(inside)}.{leaf}"
    raise AssertionError(name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dialect"), [("B0", lukemelas), ("Lite0", lukemelas), ("B0", torchvision)])
def test_other_projects_names_become_timms(name, dialect):
    state = state_of(models.create(f"EfficientNet_{name}", 10))
    theirs = {dialect(key): value for key, value in state.items()}
    assert len(theirs) == len(state)
    found, origin = translate("EfficientNet", theirs)
    assert found.keys() == state.keys()
    assert all(found[key] is state[key] for key in state)
    assert origin["conv_head.weight"] in theirs


def converted(tmp_path, state, *flags, card=None) -> dict:
    save_file(state, tmp_path / "weights.safetensors")
    if card:
        (tmp_path / "config.json").write_text(json.dumps(card))
    argv = [str(tmp_path / "weights.safetensors"), "--dataset", "ImageNet", "--num_classes", "10", *flags]
    assert convert.main([*argv, "--out", str(tmp_path / "out")]) == 0
    return pretrained.load(tmp_path / "out").info


@pytest.mark.slow
def test_the_input_of_the_published_lites_is_known(tmp_path):
    state = {lukemelas(name): x for name, x in state_of(models.create("EfficientNet_Lite0", 10)).items()}
    info = converted(tmp_path, state, "--arch", "EfficientNet_Lite0")
    assert info["options"] == {"padding": "SAME", "epsilon": 1e-3}
    np.testing.assert_allclose(np.array(info["mean"]) * 255, 127)
    np.testing.assert_allclose(np.array(info["std"]) * 255, 128)
    assert (info["image_shape"], info["resize"], info["interpolation"]) == ([224, 224, 3], 256, "bicubic")


@pytest.mark.slow
def test_the_hubs_card_decides_padding_size_crop_and_filter(tmp_path):
    input_of = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 240, 240], "crop_pct": 0.882}
    card = {"architecture": "tf_efficientnet_lite0", "pretrained_cfg": {**input_of, "interpolation": "bilinear"}}
    info = converted(
        tmp_path, state_of(models.create("EfficientNet_Lite0", 10)), "--arch", "EfficientNet_Lite0", card=card
    )
    assert info["options"] == {"padding": "SAME", "epsilon": 1e-3}
    assert info["image_shape"] == [240, 240, 3]
    assert (info["mean"], info["resize"], info["interpolation"]) == ([0.5] * 3, 272, "bilinear")


@pytest.mark.slow
def test_flags_win_and_timms_names_without_a_card_are_pytorchs_network(tmp_path):
    flags = ("--arch", "EfficientNet_Lite0", "--image_size", "192", "--resize", "200", "--interpolation", "bilinear")
    info = converted(tmp_path, state_of(models.create("EfficientNet_Lite0", 10)), *flags)
    assert info["options"] == {"padding": "TORCH", "epsilon": 1e-5}
    assert (info["image_shape"], info["resize"], info["interpolation"]) == ([192, 192, 3], 200, "bilinear")


def test_the_resizing_travels_to_every_dataset(tmp_path, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append((name, options))
        return types.SimpleNamespace(task="classification", named=lambda names: None)

    monkeypatch.setattr(data, "load", load)
    info = {"arch": "EfficientNet_Lite0", "class_names": []}
    info |= {"dataset": "ImageNet", "image_shape": [240, 240, 3], "resize": 272, "interpolation": "bicubic"}
    own = {"image_size": 240, "resize": 272, "interpolation": "bicubic"}
    dataset_of(info, {})
    dataset_of(info, {"dataset": "ImageFolder", "data_dir": "d", "resize": 256})
    dataset_of(info, {"dataset": "CIFAR10"})
    dataset_of(info, {"dataset": "CIFAR10", "image_size": 120})
    assert asked == [
        ("ImageNet", own),
        ("ImageFolder", {**own, "channels": 3, "data_dir": "d", "resize": 256}),
        ("CIFAR10", own),
        ("CIFAR10", {**own, "image_size": 120, "resize": 136}),
    ]


@pytest.mark.slow
def test_the_published_lite0_answers_as_published(tmp_path, golden):
    """Logits on a random input, and 90 % of 200 photographs."""
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    weights, photos = SHARED / "pretrained/efficientnet_lite0.pth", SHARED / "photos/imagenet-photos.tar"
    if not (weights.is_file() and photos.is_file()):
        pytest.skip(f"no published weights and photographs in {SHARED}; set KD_SHARED_DIR to the folder that has them")
    with tarfile.open(photos) as archive:
        archive.extractall(tmp_path, filter="data")
    argv = [str(weights), "--arch", "EfficientNet_Lite0", "--dataset", "ImageNet", "--out", str(tmp_path / "lite0")]
    assert convert.main([*argv, "--data_dir", str(tmp_path / "photos")]) == 0
    expected, found = golden("efficientnet_lite0"), pretrained.load(tmp_path / "lite0")
    assert abs(found.info["test_top1"] - expected["photos"]["top1"]) <= 0.5  # one photograph
    assert abs(found.info["test"]["top5"] - expected["photos"]["top5"]) <= 0.5
    assert re.fullmatch(r"n\d{8} .+", found.info["class_names"][0])
    model = models.create("EfficientNet_Lite0", 1000, **found.info["options"])
    images = np.random.RandomState(7).standard_normal((2, 224, 224, 3)).astype(np.float32)
    logits = np.asarray(jax.jit(model.apply)(found.variables, images).logits)
    numbers = expected["random_input"]
    assert logits.argmax(axis=1).tolist() == numbers["argmax"]
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), numbers["l2"], rtol=1e-4)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(logits[:, :8], numbers["logits_first8"], rtol=1e-4, atol=1e-4 * scale)
