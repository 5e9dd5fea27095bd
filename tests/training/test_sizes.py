"""Networks that see the images at other sizes: in training, banks, tests, measurements and maps alike."""

import json

import numpy as np
import pytest
import safetensors.numpy

import data
import pretrained
from configs.resolve import resolve
from pretrained.players import dataset_of
from registry import UserError
from studies import evaluation, explaining
from training.builder import Builder
from training.train import train

pytestmark = pytest.mark.slow

RUN = {"student_arch": "CNN", "train_epoch": 1, "batch_size": 100, "crop_pad": 1, "checkpoint_seconds": 1e9}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A small teacher trained on digits that its program resizes to 16 pixels, and the summary of its run."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    recipe = {**RUN, "transfer": "Labels", "train_epoch": 2, "image_size": 16, "interpolation": "bicubic"}
    return str(folder), train({**recipe, "val_split": 0.2, "train_path": str(folder)}, quiet=True)


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """A student of 8 pixels whose teacher sees the same views at 16 pixels: folder, summary, what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    recipe = {**RUN, "distiller": "SoftLogits", "teacher_param": teacher[0], "teacher_image_size": 16}
    return str(folder), train({**recipe, "train_path": str(folder)}, quiet=True)


def test_the_size_travels_with_the_weights(teacher):
    info = pretrained.load(teacher[0]).info
    assert (info["image_shape"], info["resize"], info["interpolation"]) == ([16, 16, 1], 0, "bicubic")
    dataset = dataset_of(info, {})
    assert (dataset.image_shape, dataset.image_size) == ((8, 8, 1), 16)
    assert evaluation.measure(teacher[0], dataset)["top1"] == pytest.approx(teacher[1]["last"]["top1"], abs=1e-6)


def test_another_size_is_another_answer_and_is_said(teacher, capsys):
    plain = data.load("Digits")
    measured = evaluation.measure(teacher[0], plain)
    note = f"the network in {teacher[0]}/last was trained on images of 16x16 pixels and sees 8x8 here. "
    assert f"{note}--image_size 16 resizes the images for the network." in capsys.readouterr().err
    assert measured["top1"] != pytest.approx(teacher[1]["last"]["top1"], abs=0.1)


def test_a_teacher_sees_its_own_size_in_the_step_in_tests_and_in_measurements(teacher, student, capsys):
    folder, summary = student
    assert pretrained.load(folder).info["image_shape"] == [8, 8, 1]
    measured = evaluation.measure(folder, data.load("Digits"), teacher[0], teacher_image_size=16)
    assert measured["agreement"] == pytest.approx(summary["last"]["agreement"], abs=1e-6)
    assert measured["kl"] == pytest.approx(summary["last"]["kl"], abs=1e-5)
    assert capsys.readouterr().err == ""
    other = evaluation.measure(folder, data.load("Digits"), teacher[0])
    assert other["kl"] != pytest.approx(measured["kl"], abs=1e-3)
    assert "--teacher_image_size 16 resizes the images for the teacher." in capsys.readouterr().err


def test_a_bank_holds_what_the_teacher_answers_at_its_own_size(teacher, student, tmp_path, monkeypatch):
    """Without augmentation the fixed views are the images: the run is the one that asks the teacher."""
    recipe = {**RUN, "crop_pad": 0, "distiller": "SoftLogits", "teacher_param": teacher[0], "teacher_image_size": 16}
    recipe |= {"teacher_bank_dtype": "float32", "learning_rate": 1e-3}
    found = []
    for views in (0, 1):
        folder = tmp_path / str(views)
        train({**recipe, "teacher_views": views, "train_path": str(folder)}, quiet=True)
        found.append(safetensors.numpy.load_file(folder / "last" / "weights.safetensors"))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-5)
    key = json.loads((tmp_path / "1" / "teacher_bank" / "stored.json").read_text())["key"]
    assert key["view"] == {"image_size": 16, "resize": 0, "interpolation": "bicubic"}  # as the teacher was trained


def test_maps_have_the_images_own_size_and_are_of_what_the_network_sees(teacher):
    dataset = data.load("Digits")
    images, labels = dataset.test.images[:30], dataset.test.labels[:30]
    subject = explaining.subject_of(teacher[0], dataset, "teacher", image_size=16)
    assert subject.maps(explaining.check_maps(["GradCAM"])[0], images, labels).shape == (30, 8, 8)
    weights = evaluation.answers([teacher[0]], dataset, [""], "teacher", 16)[0][:30]
    np.testing.assert_allclose(subject.answers(images)[0], weights, rtol=1e-3, atol=1e-3)
    measured = explaining.measure([teacher[0]], data.load("Digits", image_size=16), ["CAM"], images=20)
    assert measured["networks"][0]["CAM"]["sanity"]


def test_a_teacher_of_another_size_is_said_with_the_option(teacher, capsys):
    recipe = {**RUN, "distiller": "SoftLogits", "teacher_param": teacher[0]}
    Builder(resolve(recipe)[0], lambda line: None)
    note = "was trained on images of 16x16 pixels and sees 8x8 here. --teacher_image_size 16 resizes the images"
    assert note in capsys.readouterr().err
    for size in (16, 8):
        Builder(resolve({**recipe, "teacher_image_size": size})[0], lambda line: None)
        assert capsys.readouterr().err == ""


def test_students_see_the_size_of_the_data_and_teachers_their_own():
    recipe = {**RUN, "distiller": "AT", "teacher_param": "tests/teacher", "image_size": 12}
    strategy = Builder(resolve({**recipe, "teacher_image_size": 10})[0], lambda line: None).strategy
    assert (strategy.student.image_size, strategy.teacher.image_size) == (12, 10)
    strategy = Builder(resolve(recipe)[0], lambda line: None).strategy
    assert (strategy.student.image_size, strategy.teacher.image_size) == (12, 12)


def test_the_size_of_a_teacher_needs_a_teacher():
    from evaluate import parse

    with pytest.raises(UserError, match="--teacher_image_size 16 needs a teacher: add --teacher_param"):
        parse(["--param", "somewhere", "--teacher_image_size", "16"])
    with pytest.raises(UserError, match="'teacher_image_size' must not be negative"):
        parse(["--param", "somewhere", "--teacher_param", "there", "--teacher_image_size", "-1"])
