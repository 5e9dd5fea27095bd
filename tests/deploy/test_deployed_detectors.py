"""Detectors leave the library: boxes of files as evaluation finds them, and exported programs with the suppression."""

import csv
import dataclasses
import json
import re

import jax
import jax.export
import numpy as np
import pages
import pytest
from drawn import drawn
from PIL import Image

import data
import deploy
import models
import pretrained
from deploy import detector, export, exported, predict, targets
from registry import UserError
from studies import evaluation
from tests.training.tiny_detectors import TinyFasterRCNN, TinyRetinaNet

ARCH = "tests.training.tiny_detectors:TinyRetinaNet"
COUNT = 8  # images


@pytest.fixture(autouse=True, scope="module")
def compile_little():
    """These programs run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights that are sure of many boxes."""
    folder, dataset = tmp_path_factory.mktemp("detector") / "weights", data.load("Scenes")
    model = TinyRetinaNet(dataset.num_classes)
    variables = drawn(model, np.zeros((1, *dataset.image_shape), np.float32), seed=1, biases=True)
    pretrained.save(folder, jax.device_get(variables), {**dataset.info, "arch": ARCH, "test_top1": None})
    return folder


@pytest.fixture(scope="module")
def detect(weights):
    return deploy.load(weights, ARCH)


@pytest.fixture(scope="module")
def found(detect):
    """Detections [COUNT, D, 6] of the first test images, given as arrays."""
    return detect(data.load("Scenes").test.images[:COUNT])


def run(weights, *arguments):
    predict.main(["--param", str(weights), "--arch", ARCH, *map(str, arguments)])


@pytest.mark.slow
def test_files_and_arrays_get_the_detections_that_evaluation_computes(weights, detect, found, tmp_path):
    dataset = data.load("Scenes")
    few = dataclasses.replace(dataset, test=dataset.test.part(np.arange(COUNT)))
    (expected,) = evaluation.answers([str(weights)], few, [ARCH], "network")
    assert (expected[..., 5] >= 0).sum() > 100
    assert detector.apart(expected, found) < 1e-5
    for i in range(COUNT):
        Image.fromarray(dataset.test.images[i]).save(tmp_path / f"{i}.png")
    ((good, answers, bad),) = detect.found(sorted(map(str, tmp_path.iterdir())))
    assert len(good) == COUNT
    assert not bad
    np.testing.assert_array_equal(answers, found)


@pytest.mark.slow
def test_boxes_are_in_pixels_of_the_file_and_stay_in_it(detect, found, tmp_path, monkeypatch):
    image = data.load("Scenes").test.images[3, :40]  # wide, so the square has padding below
    large = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
    Image.fromarray(large).save(tmp_path / "large.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: the viewer turns the pixels by a quarter
    Image.fromarray(np.rot90(large)).save(tmp_path / "turned.png", exif=turned)
    squares = detect.fit([large])
    assert squares.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(squares[0, 40:], np.broadcast_to((124, 116, 104), (24, 64, 3)))
    own = detect._batches(np.repeat(squares, 2, axis=0))  # pixels of the square, with boxes in the padding
    assert own[..., 3].max() > 41
    expected = np.concatenate([np.clip(own[..., :4] * 3, 0, (192, 120, 192, 120)), own[..., 4:]], axis=-1)
    np.testing.assert_allclose(detect([large, large]), expected, rtol=1e-6)
    ((good, answers, _),) = detect.found([tmp_path / "large.png", tmp_path / "turned.png"])
    assert len(good) == 2
    np.testing.assert_allclose(answers, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_command_shows_the_surest_objects(weights, found, tmp_path, capsys):
    file = tmp_path / "a.png"
    Image.fromarray(data.load("Scenes").test.images[0]).save(file)
    solid = found[0][(found[0, :, 2:4] > found[0, :, :2]).all(axis=1)]
    assert len(solid) < len(found[0])  # others lie beyond the edge alone
    sure, limit = solid[:20], solid[19:21, 4].mean()
    run(weights, file, "--least", limit, "--json")
    answer = json.loads(capsys.readouterr().out)
    names = data.load("Scenes").class_names
    assert [thing["class"] for thing in answer["objects"]] == [names[int(i)] for i in sure[:, 5]]
    np.testing.assert_allclose([thing["box"] for thing in answer["objects"]], sure[:, :4], atol=0.01)
    run(weights, "--folder", tmp_path, "--topk", "3", "--csv", tmp_path / "boxes.csv")
    header, *rows = csv.reader((tmp_path / "boxes.csv").read_text().splitlines())
    assert header == ["file", "class", "score", "x1", "y1", "x2", "y2"]
    np.testing.assert_allclose([[float(x) for x in row[2:]] for row in rows], sure[:3, [4, 0, 1, 2, 3]], atol=0.01)
    run(weights, file, "--least", "1")
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}  no object"


@pytest.mark.slow
def test_the_code_of_the_page_runs(detect, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "load", lambda param: detect)
    blocks = re.findall(r"```python\n(.*?)```", pages.PAGES["deploy.md"], re.DOTALL)
    exec(next(block for block in blocks if "runs/scenes" in block), {})
    assert capsys.readouterr().out.split()[0] in detect.class_names


def test_a_classifier_has_no_least_and_a_detector_wants_colours(detect):
    for flags, message in ((["--least", "0.5"], "has a classifier"), (["--least", "2"], "from 0 to 1")):
        with pytest.raises(UserError, match=message) as raised:
            predict.main(["--param", "tests/teacher", "a.png", *flags])
        assert len(str(raised.value).splitlines()) <= 2
    for image in (np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(UserError, match=r"Images must be uint8 \[H, W, 3\]"):
            detect([image])


def test_objects_are_compared_with_the_nearest_of_their_class():
    own = np.zeros((1, 4, 6), np.float32)
    own[0, :, 5] = 0, 1, 1, -1
    own[0, :3, :4] = (0, 0, 8, 8), (2, 2, 4, 4), (5, 5, 9, 10)
    own[0, :3, 4] = 0.9, 0.8, 0.8
    assert detector.apart(own, own[:, [0, 2, 1, 3]]) == 0  # equal scores: any order
    for place, value, distance in (
        ((0, 3), 8.5, 0.05),
        ((0, 4), 0.8, 0.1),
        ((0, 5), 2, np.inf),
        ((0, 1), np.nan, None),
    ):
        other = own.copy()
        other[0][place] = value
        result = detector.apart(own, other)
        assert np.isnan(result) if distance is None else result == pytest.approx(distance)
    gone = own.copy()
    gone[0, 0] = 0, 0, 0, 0, 0, -1
    assert detector.apart(own, gone) == np.inf
    assert detector.apart(own, own[:, :3]) == np.inf


@pytest.fixture
def quick(monkeypatch):
    """Latencies are not measured."""
    monkeypatch.setattr(targets, "latency", lambda *_: 1.0)


def exports(weights, out, *arguments):
    return export.export(
        export.parser().parse_args(["--param", str(weights), "--arch", ARCH, "--out", str(out), *arguments])
    )


@pytest.mark.slow
def test_stablehlo_finds_the_objects_of_the_library(weights, found, tmp_path, quick):
    facts = exports(weights, tmp_path / "a", "--to", "stablehlo", "--with_preprocessing")
    assert facts["outputs"] == {"detections": ["batch", 300, 6]}
    assert facts["input"]["letterbox"] == {"long_side": 64, "fill": [124, 116, 104]}
    assert facts["images"] == COUNT
    assert facts["parity"]["detections"]["relative"] < 1e-4
    assert "score, class" in facts["meaning"]
    dataset = data.load("Scenes")
    few = dataclasses.replace(dataset, test=dataset.test.part(np.arange(COUNT)))
    assert detector.apart(exported.load(str(tmp_path / "a")).answers(few), found) < 1e-4
    with pytest.raises(UserError, match="Digits is data for classification"):
        exported.load(str(tmp_path / "a")).answers(data.load("Digits"))


@pytest.mark.slow
def test_onnx_returns_all_anchors(weights, tmp_path, quick):
    facts = exports(weights, tmp_path / "a", "--to", "onnx")
    assert {name: shape[2:] for name, shape in facts["outputs"].items()} == {"logits": [6], "boxes": [4]}
    assert all(parity["relative"] < 1e-4 for parity in facts["parity"].values())
    assert "no non-maximum suppression" in facts["meaning"]
    with pytest.raises(UserError, match="--taps boxes: the file returns something else"):
        exports(weights, tmp_path / "b", "--to", "onnx", "--taps", "boxes")


def test_faster_rcnn_takes_any_number_of_images():
    model = TinyFasterRCNN(6)
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 64, 64, 3"), np.float32)
    variables = drawn(model, np.zeros((1, 64, 64, 3), np.float32), seed=1)

    def detections(images):
        return model.found(models.forward(model, variables, images)[0])

    assert str(jax.eval_shape(detections, images).shape) == "(batch, 100, 6)"
