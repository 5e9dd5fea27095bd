"""Pictures of what detectors find: boxes and maps of the networks that are asked, and what cannot be drawn."""

import jax
import numpy as np
import pytest

import data
import models
import tasks
from explain.subject import Subject
from registry import UserError
from studies import detecting, explaining
from tests.training.tiny_detectors import TinyRetinaNet


@pytest.fixture(scope="module")
def dataset():
    return data.load("Scenes")


@pytest.mark.slow
def test_a_map_shows_where_the_surest_boxs_class_comes_from(dataset):
    model = TinyRetinaNet(dataset.num_classes)
    variables = model.init(jax.random.key(0), np.zeros((1, *dataset.image_shape), np.float32))
    pixels = np.asarray(dataset.test.images[:2])
    subject = Subject("net", model, variables, dataset.mean, dataset.std)
    rows, heat = subject.collect(lambda *given: detecting._look(tasks.of(dataset), True, *given), pixels)
    assert rows.shape[::2] == (2, 6)
    assert heat.shape == pixels.shape[:3]
    assert np.isfinite(heat).all()
    assert (heat >= 0).all()
    assert heat.max() > 0
    figure = detecting.draw([subject], dataset, np.array([0, 5]), maps=True)
    assert [cell.get_title() for cell in figure.axes[:2]] == ["truth", "net"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Scenes", {"kind": "panel"}, "--kind panel reads the class of each image"),
        ("Digits", {"kind": "detections"}, "Digits has none"),
        ("Scenes", {"kind": "detections", "map_name": "CAM"}, "only GradCAM"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        explaining.draw(params=["nowhere"], dataset=data.load(name), **options)


def test_only_detectors_find_boxes(dataset):
    outputs = models.Outputs(np.zeros((1, dataset.num_classes)), {})
    with pytest.raises(ValueError, match="do not know their images"):
        tasks.of(dataset).answer(outputs)
