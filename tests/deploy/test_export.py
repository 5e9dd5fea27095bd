"""Exported files compute what the library computes, in runtimes that know nothing of the library."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import onnx
import pytest
from drawn import drawn

import models
import pretrained
from deploy import export, graph, targets
from deploy.litert_format import is_ready
from models import ops
from registry import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
TEACHER = str(ROOT / "tests" / "teacher")
# the smallest network of each kind of layer: name -> (options, side of the images)
TINY = {
    "CNN": ({}, 8),
    "ResNet8": ({}, 8),
    "ResNet18": ({"blocks": (1, 1, 1, 1), "stem": "imagenet"}, 32),
    "WRN_16_1": ({}, 8),
    "VGG8": ({"widths": (8, 8, 8, 8, 8)}, 8),
    "MobileNetV2": ({}, 8),
    "ShuffleNetV1": ({"blocks": (1, 2, 1)}, 8),
    "ShuffleNetV2": ({"blocks": (1, 2, 1)}, 8),
    "ViT_Ti": ({"width": 24, "depth": 4, "patch_size": 4}, 8),
    "ConvNeXt_T": ({"blocks": (1, 1, 1, 1), "widths": (8, 16, 16, 16), "patch_size": 1}, 16),
    "EfficientNet_B0": ({"width": 0.25, "depth": 0.25}, 16),
    "EfficientNet_Lite0": ({"padding": "TORCH", "depth": 0.25}, 16),
    "Projected": ({"backbone": "CNN", "width": 16}, 8),
}
FAST = ("CNN", "ResNet8", "WRN_16_1", "VGG8", "Projected")
every = pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in TINY])


@pytest.fixture(autouse=True)
def compile_little():
    """These programs run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def network(name: str) -> tuple[graph.Graph, graph.Graph, np.ndarray, dict]:
    """(the plain function, the function with the CPU's forms, three images, name -> what the library returns)."""
    options, side = TINY[name]
    model, images = models.create(name, 5, **options), np.zeros((1, side, side, 3), np.float32)
    info = {"arch": name, "options": options, "num_classes": 5, "class_names": list("abcde"), "dataset": "Digits"}
    info |= {"image_shape": [side, side, 3], "mean": [0.0] * 3, "std": [1.0] * 3, "test_top1": None}
    variables = jax.tree.map(np.asarray, dict(drawn(model, images, seed=1, biases=True)))
    weights = pretrained.Pretrained(pathlib.Path(name), variables, info, "")
    tap = ("embedding",)
    images = np.random.RandomState(2).standard_normal((3, side, side, 3)).astype(np.float32)
    outputs = jax.jit(lambda v, x: models.forward(model, v, x)[0])(variables, images)
    expected = {"logits": np.asarray(outputs.logits), "embedding": np.asarray(outputs.features["embedding"])}
    return graph.build(weights, taps=tap), graph.build(weights, taps=tap, plain=False), images, expected


def check(expected: dict, found: dict) -> None:
    for name, parity in export.compare(expected, found).items():
        assert parity["relative"] < 2e-5, (name, parity)


def test_every_family_is_exported():
    classifiers = [name for name in models.names() if not models.is_detector(name)]
    modules = {models.registry.entries[name].partition(":")[0] for name in classifiers}
    assert {models.registry.entries[name].partition(":")[0] for name in TINY} == modules


@every
def test_onnx_computes_what_the_library_computes_for_any_number_of_images(name):
    plain, _, images, expected = network(name)
    target = targets.registry.get("onnx")()
    content = target.write(plain)
    run = target.open(content, plain)
    assert ("Clip" in {node.op_type for node in onnx.load_from_string(content).graph.node}) == ("Lite" in name)
    check(expected, dict(zip(plain.outputs, run(images), strict=True)))
    check({n: x[:1] for n, x in expected.items()}, dict(zip(plain.outputs, run(images[:1]), strict=True)))


ALONE = """
import pathlib, sys
import jax, numpy as np
from jax import export
for path in pathlib.Path(sys.argv[1]).glob("*.stablehlo"):
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    images = np.load(path.with_suffix(".npy"))
    np.savez(path.with_suffix(".npz"), **call(images))
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"flax", "models", "pretrained", "deploy"}, loaded
"""


@pytest.mark.parametrize("names", [["CNN"], pytest.param([*TINY], marks=pytest.mark.slow)], ids=["one", "every"])
def test_stablehlo_runs_in_a_process_that_has_jax_alone(names, tmp_path):
    target = targets.registry.get("stablehlo")()
    for name in names:
        _, own, images, _ = network(name)
        (tmp_path / f"{name}.stablehlo").write_bytes(target.write(own))
        np.save(tmp_path / f"{name}.npy", images)
    call = [sys.executable, "-I", "-c", ALONE, str(tmp_path)]
    alone = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    result = subprocess.run(
        call, cwd=tmp_path, env={**os.environ, **alone}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    for name in names:
        with np.load(tmp_path / f"{name}.npz") as found:
            check(network(name)[3], dict(found))


def test_plain_pools_are_the_pools():
    x = np.abs(np.random.RandomState(0).standard_normal((2, 7, 8, 3))).astype(np.float32)
    for pool in (ops.max_pool, ops.mean_pool):
        usual = pool(x, 3, 2, pad=1)
        with ops.plain():
            np.testing.assert_array_equal(pool(x, 3, 2, pad=1), usual)


def run(*arguments):
    export.main(["--param", TEACHER, *map(str, arguments)])


@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
def test_pixels_go_in_and_probabilities_come_out(name, tmp_path, capsys):
    out = tmp_path / "made" / "here"
    run("--to", name, "--out", out, "--with_preprocessing", "--taps", "stage2", "--json")
    facts = json.loads((tmp_path / "made" / "here.json").read_text())
    assert json.loads(capsys.readouterr().out) == facts
    assert facts["input"]["type"] == "uint8"
    assert facts["outputs"] == {"probabilities": ["batch", 10], "stage2": ["batch", 4, 4, 32]}
    assert facts["bytes"] == out.stat().st_size
    assert facts["class_names"] == list("0123456789")
    assert facts["images"] == 64
    assert all(time > 0 for time in facts["milliseconds"].values())
    assert all(0 <= parity["relative"] < 1e-5 for parity in facts["parity"].values())


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    target = targets.registry.get("stablehlo")
    opened = target.open

    def wrong(self, content, graph):
        return lambda images: [1.002 * array for array in opened(self, content, graph)(images)]

    monkeypatch.setattr(targets, "latency", lambda *_: 1.0)
    monkeypatch.setattr(target, "open", wrong)
    with pytest.raises(UserError, match=r"Nothing is written: 'logits' .* 2\.0e-03 .*\nTake another format"):
        run("--to", "stablehlo", "--out", tmp_path / "a")
    monkeypatch.setattr(target, "open", lambda *_: lambda images: [np.full((len(images), 10), np.nan)])
    with pytest.raises(UserError, match="Nothing is written"):
        run("--to", "stablehlo", "--out", tmp_path / "a")
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "format": (["--to", "onx", "--out", "a"], "Did you mean 'onnx'"),
    "tap": (["--to", "onnx", "--out", "a", "--taps", "stage9"], "Unknown tap 'stage9'. Did you mean 'stage3'"),
    "tap twice": (["--to", "onnx", "--out", "a", "--taps", "stem,stem"], "twice"),
    "folder": (["--to", "onnx", "--out", "."], "is a folder"),
    "in a file": (["--to", "onnx", "--out", "there/a"], "nothing can be written in"),
    "exists": (["--to", "onnx", "--out", "there"], "exists already"),
    "no torch": (["--to", "torch", "--out", "a"], r"needs PyTorch: .*\nInstall it"),
    "no format": (["--out", "a"], "required: --to"),
    "both": (["--to", "onnx", "--out", "a", "--images", ".", "--data_dir", "."], "leave --dataset and --data_dir out"),
    "no pictures": (["--to", "onnx", "--out", "a", "--images", "empty"], "--images empty has no pictures"),
    "other channels": (["--to", "onnx", "--out", "a", "--dataset", "Shapes"], "Images must be uint8"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_two_lines_and_nothing_is_written(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "deploy.torch_format", raising=False)
    (tmp_path / "there").write_text("old")
    (tmp_path / "empty").mkdir()
    arguments, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as raised:
        run(*arguments)
    assert len(str(raised.value).splitlines()) <= 2
    assert {path.name for path in tmp_path.iterdir()} == {"there", "empty"}
    assert (tmp_path / "there").read_text() == "old"


@pytest.mark.slow
@pytest.mark.skipif(not is_ready(), reason="no environment for LiteRT: python -m deploy.export --to litert makes it")
@pytest.mark.parametrize("name", TINY)
def test_litert_computes_what_the_library_computes(name):
    plain, _, images, expected = network(name)
    target = targets.registry.get("litert")()
    check(expected, target.measure(target.write(plain), plain, images).outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_program_of_pytorch_computes_what_the_library_computes_for_any_number_of_images(name):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    plain, _, images, expected = network(name)
    target = targets.registry.get("torch")()
    run = target.open(target.write(plain), plain)
    check(expected, dict(zip(plain.outputs, run(images), strict=True)))
    check({n: x[:1] for n, x in expected.items()}, dict(zip(plain.outputs, run(images[:1]), strict=True)))
