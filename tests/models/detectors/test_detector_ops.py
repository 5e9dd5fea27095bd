"""The operations of detectors against torchvision's numbers (tests/goldens/README.md, detection.json)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.detectors import boxes, losses
from models.detectors.anchors import anchors
from models.detectors.matching import BACKGROUND, match
from models.detectors.nms import nms

NETWORKS = {"retinanet_resnet50_fpn": (3, 3), "fasterrcnn_resnet50_fpn": (2, 1)}  # first level, sizes of a level


@pytest.fixture
def ops(golden):
    return golden("detection")["ops"]


def array(values):
    return jnp.asarray(values, jnp.float32)


close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def test_codes_of_boxes_are_torchvisions(ops):
    case = ops["box_coder"]
    close(boxes.LARGEST_LOG, case["bbox_xform_clip"])
    reference, proposals, codes = (array(case[name]) for name in ("reference_boxes", "proposals", "codes"))
    for own in case["cases"]:
        encoded = boxes.encode(reference, proposals, own["weights"])
        close(encoded, own["encode"], atol=1e-5)
        close(boxes.decode(codes, proposals, own["weights"]), own["decode_of_codes"], atol=1e-3)
        close(boxes.decode(encoded, proposals, own["weights"]), reference, atol=1e-3)


def test_the_code_of_an_empty_box_is_finite():
    some, empty = array([[1, 2, 30, 40]]), jnp.zeros((1, 4))
    assert np.isfinite([boxes.encode(a, b) for a in (some, empty) for b in (some, empty)]).all()


def test_overlaps_are_torchvisions(ops):
    first, second = array(ops["iou"]["boxes1"]), array(ops["iou"]["boxes2"])
    overlaps = boxes.iou(first, second)
    close(overlaps, ops["iou"]["iou"])
    np.testing.assert_array_equal(boxes.iou(jnp.stack([first, first]), second)[1], overlaps)
    assert not np.asarray(boxes.iou(jnp.zeros((2, 4)), jnp.zeros((3, 4)))).any()
    close(boxes.areas(first[:1]), [(138.5 - 49) * (55.5 - 9)])


def test_boxes_are_clipped_to_the_height_and_width_of_their_own_image():
    outside = array([[[-5, -6, 300, 400]]] * 2)
    np.testing.assert_array_equal(
        boxes.clip(outside, array([[20, 30], [40, 50]]))[:, 0], [[0, 0, 30, 20], [0, 0, 50, 40]]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_anchors_are_torchvisions(name, golden):
    expected, (first, sizes) = golden("detection")[name]["anchors"], NETWORKS[name]
    sides = [tuple(int(32 * 2**i * 2 ** (j / 3)) for j in range(sizes)) for i in range(5)]
    found = anchors((128, 160), tuple(2 ** (first + i) for i in range(5)), tuple(sides))
    assert found.shape == (expected["total"], 4)
    assert found.dtype == np.float32
    start = 0
    for level in expected["levels"]:
        own = found[start : start + level["count"]]
        start += level["count"]
        np.testing.assert_array_equal(own[[0, 1, -1]], [level["first"], level["second"], level["last"]])
        np.testing.assert_array_equal(own[: level["per_cell"]], level["cell_anchors"])
        close(np.linalg.norm(own), level["l2"])


def test_matches_are_torchvisions(ops):
    case, fields = ops["matcher"], ("high", "low", "low_quality")
    overlaps = boxes.iou(array(case["gt_boxes"]), array(case["anchors"]))
    everyone = jnp.ones(len(overlaps), bool)
    for own in case["cases"]:
        settings = {name: own[name] for name in fields}
        found = match(overlaps, everyone, **settings)
        np.testing.assert_array_equal(found, own["matches"])
        padded = jnp.stack([jnp.concatenate([overlaps, jnp.ones_like(overlaps)])] * 2)
        padding = jnp.concatenate([everyone, ~everyone])
        found = match(padded, jnp.stack([padding, jnp.zeros_like(padding)]), **settings)
        np.testing.assert_array_equal(found, [own["matches"], [BACKGROUND] * len(own["matches"])])
    for name in ("gt_that_overlaps_no_anchor", "best_anchor_claimed_by_another_gt"):
        own = case[name]
        overlaps = boxes.iou(array(own["gt_boxes"]), array(own.get("anchors", case["anchors"])))
        found = match(overlaps, jnp.ones(len(overlaps), bool), **{name: own[name] for name in fields})
        np.testing.assert_array_equal(found, own["matches"])


def with_gradient(loss, x):
    """(elements of a loss, gradient of their sum)."""
    elements, pull = jax.vjp(loss, x)
    return elements, pull(jnp.ones_like(elements))[0]


def test_focal_losses_are_torchvisions(ops):
    case = ops["sigmoid_focal_loss"]
    for own in case["cases"]:
        rows = slice(0, 5 if own["rows"] == "rows 0..4" else 6)
        targets = array(case["targets"])[rows]
        loss = functools.partial(losses.focal, targets=targets, alpha=own["alpha"], gamma=own["gamma"])
        elements, gradient = with_gradient(loss, array(case["logits"])[rows])
        close(elements.sum(), own["sum"])
        close(jnp.linalg.norm(gradient), own["grad_of_sum_l2"])
        for row, name in ((0, "row0"), (-1, "last_row")):
            close(elements[row], own[f"elements_{name}"])
            close(gradient[row], own[f"grad_{name}"])


def test_smooth_l1_losses_are_torchvisions(ops):
    case = ops["smooth_l1"]
    for own in case["cases"]:
        beta = 0 if own["beta"] == "l1" else own["beta"]
        loss = functools.partial(losses.smooth_l1, y=array(case["targets"]), beta=beta)
        elements, gradient = with_gradient(loss, array(case["predictions"]))
        close(elements.sum(), own["sum"])
        close(jnp.linalg.norm(gradient), own["grad_of_sum_l2"])
        close(elements[2], own["elements_row2"])
        close(gradient[2], own["grad_row2"])


def test_the_boxes_that_survive_are_torchvisions_and_those_of_padded_and_stacked_images(ops):
    case = ops["batched_nms"]
    given = array(case["boxes"]), array(case["scores"]), jnp.asarray(case["classes"], jnp.int32)
    one_class = (*given[:2], jnp.zeros_like(given[2]))
    threshold, count = case["iou_threshold"], len(given[0])
    padding = array([[0, 0, 500, 500]] * 9), jnp.full(9, 2.0), jnp.zeros(9, jnp.int32)
    stacked = [
        jnp.stack([jnp.concatenate([x, y]), jnp.concatenate([z, y])])
        for x, z, y in zip(given, one_class, padding, strict=True)
    ]
    valid = jnp.stack([jnp.arange(count + 9) < count] * 2)
    index, kept = jax.jit(jax.vmap(lambda *own: nms(*own, threshold, 40)))(*stacked, valid)
    for row, name in enumerate(("keep", "keep_ignoring_classes")):
        np.testing.assert_array_equal(index[row][kept[row]], case[name])
        assert kept[row].sum() == len(case[name])
    index, kept = nms(*given, valid[0, :count], threshold, 5)
    np.testing.assert_array_equal(index, case["keep"][:5])
    assert kept.all()


def test_an_empty_box_suppresses_nothing():
    _, kept = nms(jnp.zeros((3, 4)), jnp.ones(3), jnp.zeros(3, jnp.int32), jnp.ones(3, bool), 0.5, 4)
    np.testing.assert_array_equal(kept, [True, True, True, False])
