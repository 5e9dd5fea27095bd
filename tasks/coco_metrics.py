"""COCO's metrics of detections: average precision and recall, computed by pycocotools.

A detection is right if its box overlaps an object of its class that no better detection has taken. The overlap is the
intersection over the union (IoU), and AP is the mean over the IoU thresholds 0.5, 0.55, ..., 0.95 and over the classes.
Small objects have an area up to 32^2 pixels of the original image, medium ones up to 96^2.

Source: Lin et al., ECCV 2014, arXiv:1405.0312, and https://cocodataset.org/#detection-eval
"""

import contextlib
import dataclasses
import io

import numpy as np

from registry import NonFiniteError, UserError

SIZES = ("all", "small", "medium", "large")  # pycocotools' order
MEANS = ("AP", "AP50", "AP75", *(f"AP_{size}" for size in SIZES[1:]))
RECALLS = ("AR_1", "AR_10", "AR_100", *(f"AR_{size}" for size in SIZES[1:]))


@dataclasses.dataclass(frozen=True)
class Measured:
    """What pycocotools found. All numbers are percent.

    Attributes:
        metrics: the twelve numbers, by the names in `MEANS` and `RECALLS`. AP50 and AP75 have one IoU threshold each.
            AR_10 is the mean recall over thresholds and classes with at most 10 detections for each image and class.
            A number that no object decides is left out, such as AP_large of data without large objects.
        precision: [10, 101, K, 4] float64, of IoU threshold, recall, class and size (`SIZES`); -1 where undefined.
        class_names: K names.
    """

    metrics: dict[str, float]
    precision: np.ndarray
    class_names: tuple[str, ...]

    def per_class(self, size: str = "all") -> dict[str, float]:
        """Class -> AP of its objects of one size, of `SIZES`. Classes without such objects are left out."""
        own = self.precision[..., SIZES.index(size)]
        found = {name: own[..., number] for number, name in enumerate(self.class_names)}
        return {name: 100 * float(rows.mean()) for name, rows in found.items() if rows.max() > -1}


def measure(detections: np.ndarray, objects, class_names: tuple[str, ...]) -> Measured:
    """Compares detections with objects.

    Args:
        detections: [N, D, 6] float, (x1, y1, x2, y2, score, class) in pixels of the stored image; score 0: none. For
            each image and class the 100 with the highest scores count.
        objects: of N images, as `data.objects.Objects` has them. The sizes of objects are their annotated areas, and
            `scale` turns boxes into pixels of the original image.
        class_names: K names.

    Raises:
        UserError: pycocotools is not installed.
        NonFiniteError: a detection is not finite.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("COCO's metrics need pycocotools.\nTo get it: pip install -e '.[detection]'") from None
    detections = np.asarray(detections, np.float64)
    if not np.isfinite(detections).all():
        bad = int((~np.isfinite(detections)).any(axis=(1, 2)).sum())
        raise NonFiniteError(f"The network's detections are not finite on {bad} of {len(detections)} images.")
    scale = np.asarray(objects.scale, np.float64)[:, None, None]
    classes, boxes = np.asarray(objects.classes), np.asarray(objects.boxes, np.float64) / scale
    facts = {"area": np.asarray(objects.area, np.float64), "iscrowd": np.asarray(objects.crowd).astype(int)}
    truth = _rows(boxes, classes, classes >= 0, facts)
    boxes, score = detections[..., :4] / scale, detections[..., 4]
    sides = boxes[..., 2:] - boxes[..., :2]
    facts = {"score": score, "area": sides[..., 0] * sides[..., 1]}
    found = _rows(boxes, detections[..., 5].astype(int), score > 0, facts)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        sides = [COCO(), COCO()]
        for side, rows in zip(sides, (truth, found), strict=True):
            side.dataset = {
                "images": [{"id": image} for image in range(len(detections))],
                "categories": [{"id": number} for number in range(len(class_names))],
                "annotations": rows,
            }
            side.createIndex()
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    named = zip((*MEANS, *RECALLS), evaluation.stats, strict=True)
    metrics = {name: 100 * float(value) for name, value in named if value > -1}
    return Measured(metrics, evaluation.eval["precision"][..., -1], tuple(class_names))


def _rows(boxes: np.ndarray, classes: np.ndarray, there: np.ndarray, facts: dict[str, np.ndarray]) -> list[dict]:
    """Annotations of COCO's format. Their numbers begin at 1: pycocotools takes an object 0 for no object."""
    corners, sides = boxes[there][:, :2], boxes[there][:, 2:] - boxes[there][:, :2]
    columns = {
        "id": range(1, 1 + int(there.sum())),
        "image_id": np.nonzero(there)[0].tolist(),
        "category_id": classes[there].tolist(),
        "bbox": np.concatenate([corners, sides], axis=1).tolist(),
        **{name: values[there].tolist() for name, values in facts.items()},
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
