"""COCO's metrics: equal to pycocotools' on a set with crowds, ties and borders, and defined where nothing is found."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest

from data.objects import EMPTY, Found, Objects, gathered
from registry import NonFiniteError, UserError
from tasks import coco_metrics as coco

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "goldens/coco.json").read_text())
TRUTH = GOLDEN["ground_truth"]
NUMBER = {category["id"]: number for number, category in enumerate(TRUTH["categories"])}
NAMES = tuple(category["name"] for category in TRUTH["categories"])


def padded(rows, width):
    """[N, most, width] float64 of lists of rows; missing rows are zeros."""
    most = max(map(len, rows))
    return np.array([[*own, *([[0] * width] * (most - len(own)))] for own in rows], np.float64)


def golden(scale=1.0):
    """(detections, objects) of the golden set in double precision, in images stored at `scale` times their size."""
    order = sorted(image["id"] for image in TRUTH["images"])
    objects, found = [[[] for _ in order] for _ in range(2)]
    for row in TRUTH["annotations"]:
        x, y, w, h = row["bbox"]
        own = [x, y, x + w, y + h, NUMBER[row["category_id"]], row["iscrowd"], row["area"], 1]
        objects[order.index(row["image_id"])].append(own)
    for row in GOLDEN["detections"]:
        x, y, w, h = row["bbox"]
        own = [x * scale, y * scale, (x + w) * scale, (y + h) * scale, row["score"], NUMBER[row["category_id"]]]
        found[order.index(row["image_id"])].append(own)
    rows = padded(objects, 8)
    objects = Objects(
        boxes=rows[..., :4] * scale,
        classes=np.where(rows[..., 7] == 1, rows[..., 4], EMPTY).astype(int),
        crowd=rows[..., 5] == 1,
        area=rows[..., 6],
        size=None,
        scale=np.full(len(order), scale),
    )
    return padded(found, 6), objects


@pytest.fixture(scope="module")
def measured():
    return coco.measure(*golden(), NAMES)


def test_the_twelve_numbers_are_pycocotools(measured, capsys):
    assert measured.metrics == pytest.approx({k: 100 * v for k, v in GOLDEN["stats"].items()}, rel=1e-12)
    assert tuple(measured.metrics) == (*coco.MEANS, *coco.RECALLS) == tuple(GOLDEN["stats"])
    assert capsys.readouterr() == ("", "")


def test_every_class_has_its_number_by_size_and_a_class_without_objects_none(measured):
    for size, key in (("all", "AP"), ("small", "AP_small"), ("medium", "AP_medium"), ("large", "AP_large")):
        wanted = {f"category_{row['category_id']}": 100 * row[key] for row in GOLDEN["per_category"] if row[key] > -1}
        assert measured.per_class(size) == pytest.approx(wanted, rel=1e-12)
    assert "category_90" not in measured.per_class()


def test_boxes_are_measured_in_pixels_of_the_original_image(measured):
    assert coco.measure(*golden(scale=0.25), NAMES).metrics == pytest.approx(measured.metrics, rel=1e-12)


def objects():
    one, two = Found((4, 4, 14, 14), 0, False, 100.0), Found((20, 20, 30, 30), 1, True, 100.0)
    return gathered([[one, two], []], np.full((2, 2), 32), np.ones(2))


def test_no_detection_gives_0_and_what_no_object_decides_is_left_out():
    metrics = coco.measure(np.zeros((2, 3, 6), np.float32), objects(), ("a", "b")).metrics
    assert metrics == dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AR_1", "AR_10", "AR_100", "AR_small"), 0.0)
    assert coco.measure(np.zeros((1, 3, 6), np.float32), objects()[[1]], ("a", "b")).metrics == {}


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong():
    found = np.zeros((2, 3, 6), np.float32)
    found[0, 0] = 4, 4, 14, 14, 0.5, 0
    found[0, 1] = 21, 21, 29, 29, 0.9, 1
    measured = coco.measure(found, objects(), ("a", "b"))
    assert measured.per_class() == pytest.approx({"a": 100})
    found[0, 1, 5] = 0  # the same box as a detection of class a is wrong, and comes first
    assert coco.measure(found, objects(), ("a", "b")).per_class()["a"] == pytest.approx(50)


def test_numbers_that_are_not_finite_and_a_missing_package_are_told(monkeypatch):
    found = np.zeros((2, 3, 6), np.float32)
    found[1, 0, 2] = np.nan
    with pytest.raises(NonFiniteError, match="detections are not finite on 1 of 2 images"):
        coco.measure(found, objects(), ("a", "b"))
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    monkeypatch.setitem(sys.modules, "pycocotools", types.ModuleType("pycocotools"))
    with pytest.raises(UserError, match=r"^COCO's metrics need pycocotools\.\nTo get it: pip install -e '\.\[detect"):
        coco.measure(found, objects(), ("a", "b"))
