"""Pruning takes whole channels, the right ones, and what is left is a network of the same family."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax import traverse_util

import models
import pretrained
from configs.resolve import resolve
from deploy import prune
from models import profile
from registry import UserError

SHAPE = (8, 8, 1)
TEACHER = "pretrained/resnet20_digits"
# name -> options that leave few blocks, and the number of layers whose width is free
FAMILIES = {
    "ResNet8": ({}, 3),
    "ResNet18": ({"blocks": (1, 1, 1, 1)}, 4),
    "ResNet50": ({"blocks": (1, 1, 1, 1)}, 8),
    "WRN_16_1": ({}, 6),
    "VGG8": ({"widths": (8, 8, 12, 16, 16)}, 5),
    "CNN": ({}, 4),
    "MobileNetV1": ({"widths": (8,) * 14}, 14),
    "MobileNetV2": ({"width": 0.25}, 18),
    "ShuffleNetV2": ({"blocks": (1, 2, 1), "widths": (16, 24, 32)}, 5),
    "ConvNeXt_T": ({"blocks": (1, 1, 1, 1), "widths": (8, 8, 12, 12), "patch_size": 1}, 4),
    "EfficientNet_Lite0": ({"width": 0.5, "depth": 0.1}, 7),
    "EfficientNet_B0": ({"width": 0.5, "depth": 0.1}, 7),
}
FAST = ("CNN", "VGG8")


def network(name):
    options, count = FAMILIES[name]
    model = models.create(name, 4, **options)
    return model, drawn(model, jnp.zeros((1, *SHAPE)), seed=1, biases=True), count


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in FAMILIES]
)
def test_pruning_channels_that_are_zero_changes_no_logit(name):
    jax.config.update("jax_disable_most_optimizations", True)  # conftest.py sets it back
    model, variables, count = network(name)
    found, random = prune.layers(model, SHAPE), np.random.RandomState(2)
    assert len(found) == count
    flat, left = traverse_util.flatten_dict(variables), []
    for layer in found:
        dead = random.permutation(layer.width)[: layer.width // 2]
        left.append(np.setdiff1d(np.arange(layer.width), dead))
        for path, axis in layer.axes.items():
            if path == layer.kernel or path[-1] in ("scale", "bias"):
                flat[path] = np.array(flat[path])
                assert axis == flat[path].ndim - 1
                flat[path][..., dead] = 0
    variables = traverse_util.unflatten_dict(flat)
    kept = prune.keep_shares(prune.scores(found, variables, "l1"), 0.5)
    assert all(np.array_equal(mine, alive) for mine, alive in zip(kept, left, strict=True))
    smaller, less = prune.narrowed(model, found, kept), prune.cut(variables, found, kept)
    images = jnp.asarray(random.standard_normal((3, *SHAPE)), jnp.float32)
    before, after = (jax.jit(net.apply)(v, images).logits for net, v in ((model, variables), (smaller, less)))
    assert np.abs(before).max() > 0
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert profile.cost(smaller, SHAPE).multiply_adds < profile.cost(model, SHAPE).multiply_adds


def test_each_score_ranks_as_its_paper_says():
    kernel = np.array([[3.0, -1.0, 0.0, 1.0], [0.0, -1.0, 0.0, 1.0]])  # four filters of two weights
    scale = np.array([0.1, -2.0, 0.5, 0.0])
    np.testing.assert_array_equal(prune.l1(kernel, scale), [3, 2, 0, 2])
    np.testing.assert_array_equal(prune.batchnorm_scale(kernel, scale), [0.1, 2.0, 0.5, 0.0])
    distances = np.linalg.norm(kernel[:, :, None] - kernel[:, None], axis=0)  # the filter at the origin is most central
    np.testing.assert_allclose(prune.fpgm(kernel, scale), distances.sum(axis=1))
    assert prune.fpgm(kernel, scale).argmin() == 2


def test_a_target_is_met_by_the_largest_network_below_it_and_one_out_of_reach_is_refused():
    ratings = [np.array([1.0, 2.0, 3.0, 6.0]), np.array([20.0, 20.0, 10.0, 30.0])]

    def cost(kept):
        return len(kept[0]) * 10 + len(kept[0]) * len(kept[1])

    kept = prune.keep_within(ratings, 0.5, cost)  # of 56: above 0.5 of the mean 42 are left, above 2 / 3 of it 26
    assert [list(channels) for channels in kept] == [[2, 3], [0, 1, 3]]
    with pytest.raises(UserError, match=r"0\.1 is out of reach: one channel in every layer leaves 0\.196"):
        prune.keep_within(ratings, 0.1, cost)


@pytest.mark.slow
def test_the_command_writes_weights_that_load_count_and_start_a_student(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prune.command, "tune", lambda: None)
    out = tmp_path / "pruned"
    flags = ["--param", TEACHER, "--target_multiply_adds", "0.5", "--by", "fpgm", "--out", str(out)]
    prune.main(flags)
    text = capsys.readouterr().out
    assert "stage1_block0/conv1" in text
    assert f"python train_w_kd.py --init_param {out} --teacher_param {TEACHER}" in text
    teacher, pruned = pretrained.load(TEACHER), pretrained.load(out)
    model = models.create(pruned.info["arch"], pruned.info["num_classes"], **pruned.info["options"])
    pretrained.check(pruned, model)
    costs = [profile.cost(net, SHAPE) for net in (models.create(teacher.info["arch"], 10), model)]
    assert 0.4 < costs[1].multiply_adds / costs[0].multiply_adds <= 0.5
    assert pruned.info["test_top1"] is None
    assert pruned.info["pruned"]["from"] == teacher.sha256
    config, _ = resolve({"init_param": str(out), "teacher_param": TEACHER})
    assert list(config.student_options.widths) == pruned.info["options"]["widths"]
    assert json.loads((out / "model.json").read_text())["options"]["widths"][:4] == [16, 16, 32, 64]
    with pytest.raises(UserError, match="exists already"):
        prune.main(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ratio", "0.5", "--by", "l2"], "--by l2 is no score"),
        ([], "Give one of --ratio and --target_multiply_adds"),
        (["--ratio", "0.5", "--target_multiply_adds", "0.5"], "Give one of"),
        (["--ratio", "1.5"], "--ratio is a share above 0 and below 1; got 1.5"),
    ],
)
def test_mistakes_have_two_lines(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        prune.main(["--param", "tests/teacher", "--out", str(tmp_path / "x"), *flags])


def test_other_families_are_refused_by_name_and_wrong_widths_by_number():
    facts = {"arch": "ShuffleNetV1", "num_classes": 4, "image_shape": SHAPE, "mean": [0.5], "std": [0.5]}
    facts["options"] = {"blocks": [1, 1, 1], "widths": [48, 96, 192]}
    variables = drawn(models.create("ShuffleNetV1", 4, **facts["options"]), jnp.zeros((1, *SHAPE)), seed=1)
    with pytest.raises(UserError, match=r"ShuffleNetV1 cannot be pruned.*\nFamilies that can: ResNet, WRN, VGG"):
        prune.prune(pretrained.Pretrained("x", variables, facts, ""), "l1", 0.5)
    with pytest.raises(UserError, match=r"are 4 or 7 whole numbers above 0; got \[16, 16, 32, 0\]"):
        models.create("ResNet8", 4, widths=(16, 16, 32, 0)).free_widths()
    with pytest.raises(UserError, match="whole numbers above 0"):
        models.create("WRN_16_1", 4, widths=(0, 1, 1, 1, 1, 1)).free_widths()
