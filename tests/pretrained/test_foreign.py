"""Weights of PyTorch's networks from files: what fits, what does not, and what is said where a package is missing."""

import dataclasses
import sys
import warnings

import numpy as np
import pytest
import safetensors.numpy

import data
import models
from configs.resolve import resolve
from pretrained import foreign
from pretrained.players import fitted, player_of
from registry import UserError

ARCH = "timm:test_resnet"
MISSING = "needs the extra `teachers`"


@pytest.fixture(scope="module")
def digits():
    return data.load("Digits")


@pytest.fixture(scope="module")
def torch_network():
    """`models.torch_network`; the tests that use it are skipped where the extra is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "torchvision", "timm", "torchax"):
            pytest.importorskip(name, reason=MISSING)
        return models.registry.module(ARCH)


@pytest.fixture(scope="module")
def files(torch_network, tmp_path_factory):
    """The folder of `good.pth` (wrapped, as a trainer saves it), `good.safetensors`, and files that do not fit."""
    import torch

    folder = tmp_path_factory.mktemp("files")
    state = torch_network.create(ARCH, 10, 1).state_dict()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, folder / "good.pth"
    )
    arrays = {name: value.numpy() for name, value in state.items()}
    safetensors.numpy.save_file(arrays, folder / "good.safetensors")
    safetensors.numpy.save_file({k: v for k, v in arrays.items() if k != "bn1.weight"}, folder / "short.safetensors")
    wide = {
        **arrays,
        "fc.weight": np.arange(12.0 * 96, dtype=np.float32).reshape(12, 96),
        "fc.bias": np.zeros(12, np.float32),
    }
    safetensors.numpy.save_file(wide, folder / "wide.safetensors")
    torch.save(torch_network.create(ARCH, 10, 1), folder / "whole.pth")
    return folder, arrays


@pytest.mark.parametrize("file", ["good.pth", "good.safetensors"])
def test_a_file_becomes_weights_with_the_facts_of_data_and_library(file, files, digits):
    folder, arrays = files
    weights = foreign.load(str(folder / file), ARCH, digits, "layer1, layer2", "data")
    assert weights.info["options"] == {"channels": 1, "taps": ["layer1", "layer2"]}
    assert weights.info["class_names"] == [str(number) for number in range(10)]
    assert weights.info["image_shape"] == [8, 8, 1]
    assert (weights.info["mean"], weights.info["std"]) == (list(digits.mean), list(digits.std))
    assert len(weights.sha256) == 64
    player, variables = player_of(weights, "teacher", arch=ARCH, frozen=True, dataset=digits)
    assert player.model.taps == ("layer1", "layer2")
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T)
    np.testing.assert_array_equal(
        variables["batch_stats"]["network"]["layer1.0.bn1.running_var"], arrays["layer1.0.bn1.running_var"]
    )


MISTAKES = {
    "no file": ("nowhere.pth", "data", "There is no file", "or hub"),
    "missing name": ("short.safetensors", "data", "does not fit timm:test_resnet: missing bn1.weight (1)", "names"),
    "other channels": ("good.pth", "own", "is of 3 channels, Digits has 1", "--teacher_input data"),
    "code": ("whole.pth", "data", "cannot be read as tensors only", ""),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused_in_two_lines(mistake, files, digits):
    file, stats, *expected = MISTAKES[mistake]
    with pytest.raises(UserError) as raised:
        foreign.load(str(files[0] / file), ARCH, digits, "", stats)
    assert len(str(raised.value).splitlines()) == 2
    assert all(text in str(raised.value) for text in expected)


def test_the_number_of_classes_is_the_files(files, digits):
    weights = foreign.load(str(files[0] / "wide.safetensors"), ARCH, digits, "", "data")
    assert weights.info["num_classes"] == 12
    kernel = weights.variables["params"]["classifier"]["kernel"]
    assert kernel.shape == (96, 12)
    names = [*digits.class_names[::-1], "ten", "eleven"]  # as if the names were known: the data's are among them
    named = dataclasses.replace(weights, info={**weights.info, "class_names": names})
    named = fitted(named, digits, "teacher", lambda line: None)
    player, variables = player_of(named, "teacher", arch=ARCH, frozen=True, dataset=digits)
    assert player.model.num_classes == 10
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], kernel[:, 9::-1])


def test_published_facts_are_the_librarys(torch_network):
    facts = torch_network.program_of("timm:test_vit", 10, 3, ()).published
    assert facts == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 160, "fixed": True}
    facts = torch_network.program_of("torchvision:squeezenet1_1", 10, 3, ()).published
    assert facts == {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "size": 224, "fixed": False}


def test_published_weights_that_cannot_be_fetched_are_told(torch_network, digits, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch_network, "create", offline)
    with pytest.raises(UserError, match="cannot fetch the weights of timm:test_resnet: no route to host\n"):
        foreign.load("hub", ARCH, digits)


def test_a_file_or_hub_needs_a_network_that_it_is_for(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"0")
    for param in ("hub", str(tmp_path / "weights.pth")):
        with pytest.raises(UserError, match="is for a network of PyTorch: add --teacher_arch timm:NAME") as raised:
            resolve({"distiller": "SoftLogits", "teacher_param": param})
        assert "python -m pretrained.convert" in str(raised.value)


@pytest.mark.parametrize("absent", ["torch", "torchax"])
def test_a_missing_package_is_told_with_what_installs_it(absent, monkeypatch):
    monkeypatch.delitem(sys.modules, "models.torch_network", raising=False)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UserError, match=r"timm:resnet18 needs torch, torchax and timm: .*\n.*kd-cookbook\[teachers\]"):
        models.registry.check("timm:resnet18")


def test_such_a_network_does_not_learn():
    for recipe in ({"student_arch": ARCH}, {"transfer": "Mutual", "teacher_arch": ARCH}):
        with pytest.raises(UserError, match=f"{ARCH} is a network of PyTorch, which teaches and does not learn.\n"):
            resolve({"distiller": "SoftLogits", **recipe})


def test_without_such_a_teacher_pytorch_is_not_imported(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "models.torch_network", None)  # an import of it raises
    assert not models.is_torch("my_network:MyNetwork")
    assert foreign.arch_of("tests/teacher", "") == foreign.load("tests/teacher", "", digits).info["arch"] == "CNN"
    assert resolve({"distiller": "SoftLogits", "teacher_param": "tests/teacher"})[0].teacher_arch == "CNN"
    with pytest.raises(UserError, match="kd-cookbook"):
        models.registry.check(ARCH)
