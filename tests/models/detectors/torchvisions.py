"""Helpers for the goldens of torchvision's detectors (tests/goldens/README.md, detection.json)."""

import numpy as np

import models
import pretrained
from models.detectors import detections


def close_statistics(actual, expected: dict, tolerance: float = 1e-4):
    """Shape, norm, mean and the first four entries, to `tolerance` of the norm or of the largest entry."""
    actual = np.asarray(actual, np.float64)
    assert list(actual.shape) == expected["shape"]
    np.testing.assert_allclose(np.linalg.norm(actual), expected["l2"], rtol=tolerance)
    largest = np.abs(actual).max()
    np.testing.assert_allclose(actual.mean(), expected["mean"], atol=tolerance * largest)
    np.testing.assert_allclose(actual.reshape(-1)[:4], expected["first"], atol=tolerance * largest)


def of_recipe(entry: dict, name: str, num_classes: int, draw_tensor):
    """(network, its variables with the goldens' weights)."""
    model = models.create(name, num_classes)
    state = {name: draw_tensor(name, shape) for name, shape in entry["state_dict"]}
    return model, pretrained.from_torch(model, state, (128, 160, 3))


def images() -> np.ndarray:
    """[2, 128, 160, 3] float32, the input of the networks."""
    return np.random.RandomState(7).standard_normal((2, 3, 128, 160)).astype(np.float32).transpose(0, 2, 3, 1)


def close_detections(rows, expected: dict):
    """The rows [most, 6] of an image against the goldens' of it."""
    rows = np.asarray(rows)
    count = expected["count"]
    np.testing.assert_array_equal(rows[count:], np.tile(detections.NOTHING, (len(rows) - count, 1)))
    rows = rows[:count].astype(np.float64)
    first = len(expected["first_boxes"])
    np.testing.assert_allclose(rows[:first, :4], expected["first_boxes"], atol=1e-3)
    np.testing.assert_allclose(rows[:first, 4], expected["first_scores"], atol=1e-5)
    np.testing.assert_allclose(rows[:, 4].sum(), expected["scores_sum"], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows[:, :4]), expected["boxes_l2"], rtol=1e-5)
    assert (np.diff(rows[:, 4]) <= 0).all()
    return rows[:first, 5]
