"""Quantisation without training: the ranges, the size, the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

import models
import pretrained
from configs.resolve import resolve
from deploy import prune, quantize
from models import Player
from pretrained.players import player_of
from registry import UserError

SHAPE = (8, 8, 1)


@pytest.mark.slow
def test_ranges_are_those_of_all_images_however_they_are_divided(monkeypatch):
    model = models.create("CNN", 4)
    player, variables = Player("network", model, (0.3,), (0.4,)), drawn(model, jnp.zeros((1, *SHAPE)), seed=1)
    images = np.random.RandomState(0).randint(0, 256, (6, *SHAPE), np.uint8)
    images[4] = 255
    found = quantize.measured_ranges(player, variables, images)
    low, high = found["stem_conv"]
    np.testing.assert_allclose((low, high), ((images.min() / 255 - 0.3) / 0.4, (1 - 0.3) / 0.4), rtol=1e-5)
    assert all(low <= 0 <= high for low, high in found.values())
    monkeypatch.setattr(quantize, "BATCH", 2)
    parts = quantize.measured_ranges(player, variables, images)
    assert all(np.allclose(found[name], parts[name], rtol=1e-5) for name in found)


def test_the_size_counts_bits_scales_and_folded_biases():
    model = models.create("CNN", 4)
    player, variables = Player("network", model, (0.3,), (0.4,)), drawn(model, jnp.zeros((1, *SHAPE)), seed=1)
    kernels = [x for x in jax.tree.leaves(variables["params"]) if x.ndim > 1]
    weights, channels = sum(x.size for x in kernels), sum(x.shape[-1] for x in kernels)
    assert quantize.float_bytes(player, variables, SHAPE) == 4 * (weights + channels)
    assert quantize.integer_bytes(player, variables, SHAPE, 8) == weights + 8 * channels
    assert quantize.integer_bytes(player, variables, SHAPE, 4) == weights / 2 + 8 * channels


@pytest.mark.slow
def test_the_command_writes_weights_that_round_wherever_they_are_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantize.command, "tune", lambda: None)
    out = tmp_path / "quantised"
    flags = ["--param", "tests/teacher", "--calibrate", "40", "--bits", "4", "--out", str(out)]
    quantize.main(flags)
    text = capsys.readouterr().out
    assert "weights of 4 bits (a scale for each channel), inputs of 8 bits (fixed ranges)" in text
    assert "40 training images of Digits" in text
    before, after = pretrained.load("tests/teacher"), pretrained.load(out)
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    assert (after.info["test_top1"], after.info["calibrated"]["from"]) == (None, before.sha256)
    assert json.loads((out / "model.json").read_text())["options"]["quantize"]["bits"] == 4
    player, _ = player_of(after, "network")
    assert player.model.rule.bits == 4
    assert len(player.model.rule.ranges) == 5
    config, _ = resolve({"init_param": str(out), "transfer": "Labels"})
    assert (config.student_quantize, dict(config.student_options)) == ("int4", {})
    config, _ = resolve({"init_param": str(out), "transfer": "Labels", "student_quantize": "none"})
    assert config.student_quantize == "none"
    with pytest.raises(UserError, match="which --dtype bfloat16 cannot hold"):
        resolve({"init_param": str(out), "transfer": "Labels", "dtype": "bfloat16"})
    with pytest.raises(UserError, match="exists already"):
        quantize.main(flags)
    again = ["--param", str(out), "--bits", "8", "--out", str(tmp_path / "other")]
    with pytest.raises(UserError, match=r"--bits 8: the weights in .* were trained with 4"):
        quantize.main(again)
    with pytest.raises(UserError, match="--calibrate is a number of images, 0 or more; got -1"):
        quantize.main([*again, "--calibrate", "-1"])
    with pytest.raises(UserError, match="--data_dir has no effect with --calibrate 0"):
        quantize.main([*again, "--calibrate", "0", "--data_dir", "x"])


@pytest.mark.slow
def test_pruned_weights_keep_their_bits_and_lose_the_ranges_of_what_is_gone():
    model = models.create("VGG8", 4, widths=(4,) * 5)
    variables, images = drawn(model, jnp.zeros((1, *SHAPE)), seed=1), np.zeros((1, *SHAPE), np.uint8)
    facts = {"arch": "VGG8", "num_classes": 4, "image_shape": SHAPE, "mean": [0.5], "std": [0.5]}
    facts["options"] = {"widths": [4] * 5}
    info, *_ = quantize.quantize(pretrained.Pretrained("x", variables, facts, ""), images, bits=4)
    assert len(info["options"]["quantize"]["ranges"]) == 6
    options = prune.prune(pretrained.Pretrained("x", variables, info, ""), "l1", 0.5)[0]["options"]
    assert options == {"widths": [2] * 5, "quantize": "int4"}
