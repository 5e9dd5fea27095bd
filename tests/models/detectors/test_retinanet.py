"""RetinaNet: torchvision's numbers (tests/goldens/README.md, detection.json), and what a detector promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvisions
from drawn import drawn

import models
from models.detectors import detections
from models.detectors.anchors import anchors
from models.detectors.fpn import upsampled
from registry import UserError

TINY = {"width": 0.125, "fpn_channels": 16, "head_convs": 1, "anchor_size": 8}


@pytest.mark.slow  # two networks of 20 and 34 million parameters
@pytest.mark.parametrize("name", ["ResNet18", "ResNet50"])
def test_the_network_is_torchvisions(name, golden, draw_tensor):
    entry = golden("detection")[f"retinanet_{name.lower()}_fpn"]
    model, variables = torchvisions.of_recipe(entry, f"RetinaNet_{name}", 91, draw_tensor)
    count = sum(x.size for x in jax.tree.leaves(variables))
    assert count == entry["state_dict_elements"]
    outputs = jax.jit(model.apply)(variables, torchvisions.images())
    for level, expected in entry["fpn"].items():
        tap = level if level.startswith("p") else f"p{int(level) + 3}"
        torchvisions.close_statistics(outputs.features[tap], expected)
    torchvisions.close_statistics(outputs.logits, entry["cls_logits"])
    torchvisions.close_statistics(outputs.features["boxes"], entry["bbox_regression"])
    counts = model.counts(outputs.features)
    assert sum(counts) == entry["anchors"]["total"] == len(outputs.features["anchors"])
    starts = np.cumsum([0, *counts])
    for start, end, expected in zip(starts, starts[1:], entry["heads_per_level"].values(), strict=False):
        torchvisions.close_statistics(outputs.logits[:, start:end], expected["cls_logits"])
        torchvisions.close_statistics(outputs.features["boxes"][:, start:end], expected["bbox_regression"])
    if "eps0" in entry:  # the two differ by 7e-6
        exact = jax.jit(model.clone(epsilon=0.0).apply)(variables, torchvisions.images())
        for logits, numbers in ((outputs.logits, entry), (exact.logits, entry["eps0"])):
            np.testing.assert_allclose(np.linalg.norm(np.float64(logits)), numbers["cls_logits"]["l2"], rtol=1e-6)


def test_detections_are_torchvisions(golden):
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    own = anchors((128, 160), (8, 16, 32, 64, 128), sizes)
    logits = (2 * np.random.RandomState(161).standard_normal((2, len(own), 5)) - 3).astype(np.float32)
    codes = (0.3 * np.random.RandomState(162).standard_normal((2, len(own), 4))).astype(np.float32)
    counts, size = (2880, 720, 180, 54, 18), jnp.asarray([[128, 160], [120, 150]], jnp.float32)
    find = jax.jit(functools.partial(detections.of_anchors, counts=counts))
    rows = find(logits, codes, jnp.asarray(own), size=size)
    assert rows.shape == (2, 300, 6)
    for image, expected in zip(rows, golden("detection")["postprocess"]["retinanet"], strict=True):
        np.testing.assert_array_equal(torchvisions.close_detections(image, expected), expected["first_labels"])
    few = find(logits[:1] - 20, codes[:1], jnp.asarray(own), size=size[:1])
    np.testing.assert_array_equal(few[0], np.tile(detections.NOTHING, (300, 1)))


def test_the_candidates_are_the_best_pairs_and_of_equal_scores_the_first():
    random = np.random.RandomState(4)
    logits = random.choice(np.float32([3, 2, 1, 0]), (2, 40, 4), p=[0.05, 0.15, 0.3, 0.5])  # many are equal
    own = random.uniform(0, 30, (40, 2, 2)).cumsum(axis=1).reshape(40, 4).astype(np.float32)
    settings = {"counts": (30, 10), "score": 0.0, "threshold": 1.0, "candidates": 20, "most": 40}
    find = jax.jit(functools.partial(detections.of_anchors, **settings))
    rows = find(logits, np.zeros((2, 40, 4), np.float32), own, size=np.full((2, 2), 100, np.float32))
    for image, scores in zip(rows, logits.reshape(2, -1), strict=True):
        levels = [np.arange(120), np.arange(120, 160)]
        best = np.concatenate([level[np.argsort(-scores[level], kind="stable")[:20]] for level in levels])
        best = best[np.argsort(-scores[best], kind="stable")]
        np.testing.assert_array_equal(image[:, 5], best % 4)
        np.testing.assert_allclose(image[:, :4], own[best // 4], rtol=1e-5)


def test_the_pyramid_repeats_pixels_up_to_the_size_of_the_finer_map():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    np.testing.assert_array_equal(upsampled(x, (3, 5))[0, ..., 0], expected)


@pytest.fixture(scope="module")
def tiny():
    """(network, variables, images of 48 x 72, one compiled training pass: outputs, statistics, gradient)."""
    model = models.create("RetinaNet_ResNet18", 3, **TINY)
    images = np.random.RandomState(3).standard_normal((2, 48, 72, 3)).astype(np.float32)
    variables = drawn(model, images, 1)

    @jax.jit
    def train(variables):
        def loss(params):
            outputs, stats = models.forward(model, {**variables, "params": params}, images, train=True)
            return jnp.square(outputs.logits).mean() + jnp.square(outputs.features["boxes"]).mean(), (outputs, stats)

        gradient, (outputs, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return outputs, stats, gradient

    return model, variables, images, train(variables)


def test_outputs_have_the_shapes_that_the_image_gives(tiny):
    model, _, _, (outputs, *_) = tiny
    features = outputs.features
    shapes = {tap: x.shape for tap, x in features.items() if tap.startswith("p")}
    assert shapes == {f"p{n}": (2, -(-48 // 2**n), -(-72 // 2**n), 16) for n in range(3, 8)}
    assert features["stage1"].shape == (2, 12, 18, 8)
    count = 9 * (6 * 9 + 3 * 5 + 2 * 3 + 1 * 2 + 1 * 1)
    assert outputs.logits.shape == (2, count, 3)
    assert features["boxes"].shape == (2, count, 4)
    assert features["anchors"].shape == (count, 4)
    find = functools.partial(model.detections, most=7)
    rows = jax.eval_shape(find, outputs, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert rows.shape == (2, 7, 6)


def test_everything_learns_and_frozen_batch_norms_do_not(tiny):
    model, variables, images, (_, stats, gradient) = tiny
    assert all(np.asarray(x).any() for x in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, dict(variables["batch_stats"]))
    assert all(jax.tree.leaves(moved))
    frozen = model.clone(frozen_norm=True)

    @jax.jit
    def norms(params):
        def loss(params):
            outputs, stats = models.forward(frozen, {**variables, "params": params}, images, train=True)
            return jnp.square(outputs.logits).mean(), (outputs.logits, stats)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (logits, stats) = norms(variables["params"])
    for path, x in jax.tree_util.tree_leaves_with_path(gradient["body"]):
        assert np.asarray(x).any() == ("bn" not in path[-2].key), path
    jax.tree.map(np.testing.assert_array_equal, stats, dict(variables["batch_stats"]))
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images).logits, atol=1e-5)


def test_half_precision_is_of_the_maps_alone():
    model = models.create("RetinaNet_MobileNetV2", 3, dtype=jnp.bfloat16, **TINY)
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    wide = {"boxes", "anchors"}
    assert {tap: x.dtype == jnp.float32 for tap, x in outputs.features.items()} == {
        t: t in wide for t in outputs.features
    }
    assert outputs.logits.dtype == jnp.float32
    assert [outputs.features[f"stage{n}"].shape[1] for n in (1, 2, 3, 4)] == [16, 8, 4, 2]


def test_an_unknown_backbone_is_refused():
    model = models.create("RetinaNet_ResNet18", 3, backbone="ResNet19")
    with pytest.raises(UserError, match="ResNet18"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
