"""Faster R-CNN: torchvision's numbers (tests/goldens/README.md, detection.json), and what its two heads promise."""

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
from models.detectors.roi_align import level_of, roi_align

TINY = {"width": 0.125, "fpn_channels": 16, "anchor_size": 8, "proposals": 12, "candidates": 20, "head_channels": 24}
SIDES = ((32,), (64,), (128,), (256,), (512,))


@pytest.fixture(scope="module")
def pyramid():
    """The seeded maps of `roi_align_levels`."""
    sides = [(128, 160), (64, 80), (32, 40), (16, 20)]
    draw = [np.random.RandomState(151 + i).standard_normal((1, 4, *side)) for i, side in enumerate(sides)]
    return [jnp.asarray(x.astype(np.float32).transpose(0, 2, 3, 1)) for x in draw]


def test_roi_align_reads_the_level_of_each_box_as_torchvision_does(pyramid, golden):
    case = golden("detection")["ops"]["roi_align_levels"]
    boxes = jnp.asarray(case["boxes"], jnp.float32)
    np.testing.assert_array_equal(level_of(boxes, 2, 4), case["level_of_box"])
    weights = np.random.RandomState(159).standard_normal((12, 7, 7, 4)).astype(np.float32)

    def total(maps):
        pooled = roi_align(maps, boxes[None], 2)[0]
        return (pooled * weights).sum(), pooled

    gradient, pooled = jax.jit(jax.grad(total, has_aux=True))(pyramid)
    torchvisions.close_statistics(pooled, case["output"], 1e-5)
    np.testing.assert_allclose(pooled[..., 0], case["channel0"], atol=1e-5)
    norms = [np.linalg.norm(x) for x in gradient]
    np.testing.assert_allclose(norms, case["grad_l2_per_level"], rtol=1e-5)


def test_roi_align_on_one_level_and_of_several_images(pyramid, golden):
    ops = golden("detection")["ops"]
    case = ops["roi_align_single"]["cases"]["sampling 2, not aligned"]
    boxes = jnp.asarray(ops["roi_align_levels"]["boxes"], jnp.float32)
    both = jnp.concatenate([jnp.zeros_like(pyramid[1]), pyramid[1]])
    empty, pooled = jax.jit(functools.partial(roi_align, first=3))([both], jnp.stack([boxes, boxes]))
    assert not np.asarray(empty).any()
    torchvisions.close_statistics(pooled, {name: case[name] for name in ("shape", "mean", "l2", "first")}, 1e-5)
    np.testing.assert_allclose([np.linalg.norm(box) for box in pooled], case["per_box_l2"], rtol=1e-5)


@pytest.mark.slow  # 42 million parameters
def test_the_network_is_torchvisions(golden, draw_tensor):
    entry = golden("detection")["fasterrcnn_resnet50_fpn"]
    model, variables = torchvisions.of_recipe(entry, "FasterRCNN_ResNet50", 90, draw_tensor)
    assert sum(x.size for x in jax.tree.leaves(variables)) == entry["state_dict_elements"]
    case = entry["roi"]
    rows = [(image, jnp.asarray(own, jnp.float32)) for image, own in enumerate(case["boxes"])]
    boxes = jnp.stack([jnp.zeros((3, 4)).at[: len(own)].set(own) for _, own in rows])
    real = np.concatenate([image * 3 + np.arange(len(own)) for image, own in rows])

    @jax.jit
    def run(variables, images):
        outputs, _ = models.forward(model, variables, images)
        return outputs, outputs.classify((outputs.features, boxes))

    outputs, (logits, codes) = run(variables, torchvisions.images())
    for level, expected in entry["fpn"].items():
        tap = "p6" if level == "pool" else f"p{int(level) + 2}"
        torchvisions.close_statistics(outputs.features[tap], expected)
    logits, codes = logits.reshape(6, 91)[real], codes.reshape(6, 364)[real]
    torchvisions.close_statistics(logits, case["class_logits"])
    torchvisions.close_statistics(codes, case["box_regression"])
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), case["class_argmax"])
    torchvisions.close_statistics(outputs.features["rpn_logits"], entry["rpn_flat"]["objectness"])
    torchvisions.close_statistics(outputs.features["rpn_boxes"], entry["rpn_flat"]["deltas"])
    assert len(outputs.features["anchors"]) == entry["anchors"]["total"]


def test_proposals_are_torchvisions(golden):
    own = jnp.asarray(anchors((128, 160), (4, 8, 16, 32, 64), SIDES))
    logits = (0.5 * np.random.RandomState(195).standard_normal((2, len(own)))).astype(np.float32)
    codes = (0.3 * np.random.RandomState(196).standard_normal((2, len(own), 4))).astype(np.float32)
    settings = {"counts": (3840, 960, 240, 60, 18), "candidates": 400, "most": 100}
    size = jnp.asarray([[128, 160], [120, 150]], jnp.float32)
    boxes, scores = jax.jit(functools.partial(detections.proposals, **settings))(
        logits[..., None], codes, own, size=size
    )
    rows = np.concatenate([boxes, scores[..., None], np.zeros((2, 100, 1))], axis=-1)
    for image, expected in zip(rows, golden("detection")["postprocess"]["rpn"], strict=True):
        torchvisions.close_detections(image, expected)


def test_detections_are_torchvisions(golden):
    case = golden("detection")["postprocess"]
    counts = [len(own) for own in case["roi_heads_proposals"]]
    logits = (2 * np.random.RandomState(167).standard_normal((sum(counts), 6))).astype(np.float32)
    codes = np.random.RandomState(168).standard_normal((sum(counts), 24)).astype(np.float32)
    find = jax.jit(detections.of_proposals)

    def padded(x):
        """[2, 22, ...]: the rows of each image, then rows of 0."""
        parts = np.split(x, [counts[0]])
        return jnp.stack([np.pad(part, [(0, 22 - len(part)), *[(0, 0)] * (x.ndim - 1)]) for part in parts])

    boxes = padded(np.concatenate([np.asarray(own, np.float32) for own in case["roi_heads_proposals"]]))
    size = jnp.asarray([[128, 160], [120, 150]], jnp.float32)
    rows = find(padded(logits), padded(codes.reshape(-1, 6, 4)), boxes, size)
    assert rows.shape == (2, 100, 6)
    for image, expected in zip(rows, case["roi_heads"], strict=True):
        labels = torchvisions.close_detections(image, expected)
        np.testing.assert_array_equal(labels + 1, expected["first_labels"])


@pytest.fixture(scope="module")
def tiny():
    """(network, outputs, second head's answers for the outputs' proposals, gradient of the second head's loss)."""
    model = models.create("FasterRCNN_ResNet18", 3, **TINY)
    images = np.random.RandomState(3).standard_normal((2, 48, 72, 3)).astype(np.float32)
    variables = drawn(model, images, 1, biases=True)

    def loss(params):  # without those of the backbone, whose gradient takes long to compile
        params = {"body": variables["params"]["body"], **params}
        outputs, _ = models.forward(model, {**variables, "params": params}, images)
        total = jnp.square(outputs.logits).mean() + jnp.square(outputs.features["boxes"]).mean()
        return total, (outputs, outputs.classify((outputs.features, outputs.features["proposals"])))

    params = {name: own for name, own in variables["params"].items() if name != "body"}
    gradient, (outputs, again) = jax.jit(jax.grad(loss, has_aux=True))(params)
    return model, outputs, again, gradient


def test_outputs_have_static_shapes(tiny):
    model, outputs, _, _ = tiny
    features, count = outputs.features, 3 * (12 * 18 + 6 * 9 + 3 * 5 + 2 * 3 + 1 * 2)
    assert outputs.logits.shape == (2, 12, 4)
    shapes = {"rpn_logits": (2, count, 1), "rpn_boxes": (2, count, 4), "anchors": (count, 4), "proposals": (2, 12, 4)}
    assert {name: features[name].shape for name in shapes} == shapes
    assert features["boxes"].shape == (2, 12, 4, 4)
    assert [features[f"p{n}"].shape[1:3] for n in range(2, 7)] == [(12, 18), (6, 9), (3, 5), (2, 3), (1, 2)]
    proposals = np.asarray(features["proposals"])
    assert (proposals >= 0).all()
    assert (proposals <= [72, 48, 72, 48]).all()
    find = functools.partial(model.detections, most=7)
    rows = jax.eval_shape(find, outputs, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert rows.shape == (2, 7, 6)


def test_the_second_head_answers_for_any_boxes(tiny):
    _, outputs, (logits, codes), _ = tiny
    np.testing.assert_allclose(logits, outputs.logits, rtol=1e-6)
    np.testing.assert_allclose(codes, outputs.features["boxes"], rtol=1e-6)


def test_no_gradient_goes_through_the_proposals(tiny):
    *_, gradient = tiny
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(gradient["rpn"]))
    assert all(np.asarray(x).any() for x in jax.tree.leaves(gradient["roi"]))
    assert np.asarray(gradient["fpn"]["lateral3"]["kernel"]).any()  # from the top down to the level of the boxes
