"""From folders of weights to measures and pictures."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
from drawn import drawn

import data
import models
import pretrained
from registry import UserError
from studies import explaining

TEACHER = "tests/teacher"


def disturbed(folder, size, seed, **info):
    """Save the shipped network with noise of deviation `size`, relative to each tensor's, on its parameters."""
    weights, random = pretrained.load(TEACHER), np.random.RandomState(seed)

    def noisy(x):
        return x + size * x.std() * random.standard_normal(x.shape).astype(x.dtype)

    params = jax.tree.map(noisy, weights.variables["params"])
    pretrained.save(folder, {**weights.variables, "params": params}, {**weights.info, **info})


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """Two runs near the teacher, one with the weights of an epoch, and two runs farther from the teacher."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        disturbed(root / f"soft-s{seed}" / "last", 0.05, seed)
        disturbed(root / f"labels-s{seed}" / "last", 0.5, 2 + seed)
    disturbed(root / "soft-s0" / "epochs" / "0002", 0.5, 5, epoch=2)
    return root


def test_images_are_chosen_by_number_or_position():
    assert explaining.chosen("", 10, 3).tolist() == [0, 4, 9]
    assert explaining.chosen("2", 10, 3).tolist() == [0, 9]
    assert explaining.chosen("", 10, 0).tolist() == list(range(10))
    assert explaining.chosen("", 10, 100).tolist() == list(range(10))
    assert explaining.chosen("7,3", 10, 3).tolist() == [7, 3]
    assert explaining.chosen("7,", 10, 3).tolist() == [7]


@pytest.mark.parametrize("images", ["0", "11", "-1", "3,10", "-1,2", "abc", "1,x", ","])
def test_images_that_are_not_there_are_told(images):
    with pytest.raises(UserError, match="--images") as caught:
        explaining.chosen(images, 10, 3)
    assert images in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in explaining.KINDS if kind != "detections"])
def test_every_kind_is_drawn_of_digits(kind, students):
    params = (
        [str(students / "soft-s0")] if kind == "training" else [str(students / n) for n in ("soft-s0", "labels-s0")]
    )
    figure = explaining.draw(kind, params, data.load("Digits"), TEACHER, images="40" if kind != "panel" else "2")
    heads = " ".join(axes.get_title() for axes in figure.axes)
    assert ("epoch 2" if kind == "training" else "soft-s0") in heads
    assert ("teacher CNN" in heads) == (kind != "correlation")


def test_what_a_stop_left_half_is_no_epoch(students, tmp_path):
    shutil.copytree(students / "soft-s0" / "epochs" / "0002", tmp_path / "epochs" / "0002")
    for name in ("0010", "0010.part", "0002.old", "10001"):
        shutil.copytree(tmp_path / "epochs" / "0002", tmp_path / "epochs" / name)
    found = explaining.epochs_of([str(tmp_path)])
    assert [pathlib.Path(path).name for path in found] == ["0002", "0010", "10001"]


def test_networks_of_one_name_are_told_apart(students):
    figure = explaining.draw("reliability", [TEACHER, TEACHER], data.load("Digits"))
    assert [a.get_title().split("\n")[0] for a in figure.axes[:2]] == ["teacher", "teacher (2)"]


@pytest.mark.slow
def test_every_teacher_is_drawn_and_similarity_is_the_mean_over_them(students):
    teachers, digits = [TEACHER, str(students / "labels-s0")], data.load("Digits")
    figure = explaining.draw("reliability", [str(students / "soft-s0")], digits, ",".join(teachers))
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes[:3]]
    assert titles == ["teacher CNN", "teacher CNN (2)", "soft-s0"]

    def similarity(teacher):
        found = explaining.measure([str(students / "soft-s0")], digits, ["GradCAM"], teacher, images=20)
        return found["networks"][0]["GradCAM"]["similarity"]["spearman"]

    assert similarity(",".join(teachers)) == pytest.approx(np.mean([similarity(teacher) for teacher in teachers]))
    with pytest.raises(UserError, match="--teacher_arch names 1 networks and --teacher_param 2 weights"):
        explaining.draw("reliability", [TEACHER], digits, ",".join(teachers), teacher_arch="CNN")


def test_what_cannot_be_drawn_is_told(students):
    digits = data.load("Digits")
    for kind, params, teacher, message in (
        ("pannel", [TEACHER], "", "Did you mean 'panel'"),
        ("correlation", [TEACHER], "", "add --teacher_param"),
        ("training", [TEACHER], "", "keep_epochs=1"),
        ("training", [TEACHER, TEACHER], "", "--param has 2"),
        ("panel", ["nowhere"], "", "No weights in 'nowhere'"),
    ):
        with pytest.raises(UserError, match=message):
            explaining.draw(kind, params, digits, teacher)
    with pytest.raises(UserError, match=r"needs 10 images or more; --images chose 2"):
        explaining.draw("tsne", [TEACHER], digits, images="2")
    with pytest.raises(UserError, match="Did you mean 'GradCAM'"):
        explaining.draw("panel", [TEACHER], digits, map_name="GradCAMM")
    with pytest.raises(UserError, match="AttentionRollout cannot explain this network"):
        explaining.draw("panel", [TEACHER], digits, map_name="AttentionRollout")
    for params, teacher in (([TEACHER, TEACHER], ""), ([TEACHER], TEACHER)):
        with pytest.raises(UserError, match="several maps are drawn by --kind panel for one --param"):
            explaining.draw("panel", params, digits, teacher, map_name="GradCAM,CAM")


@pytest.mark.slow
def test_several_maps_of_one_network_stand_side_by_side():
    figure = explaining.draw("panel", [TEACHER], data.load("Digits"), map_name="GradCAM,InputGradient", images="2")
    heads = [cell.get_title() for cell in figure.axes[:3]]
    assert [head.partition("\n")[0] for head in heads] == ["image", "GradCAM", "InputGradient"]
    assert figure.get_suptitle().startswith("Maps by teacher of the true class")


def test_a_student_by_a_method_is_compared_with_one_by_labels_over_seeds(students):
    soft, labels = ([str(students / f"{name}-s{seed}") for seed in (0, 1)] for name in ("soft", "labels"))
    found = explaining.measure(soft, data.load("Digits"), ["GradCAM"], TEACHER, labels, images=30)
    assert found["images"] == 30
    means = [row["GradCAM"]["similarity"]["spearman"] for row in found["networks"]]
    row = found["comparison"]["GradCAM"]["spearman"]
    back = explaining.measure(labels, data.load("Digits"), ["GradCAM"], TEACHER, images=30)
    others = [row["GradCAM"]["similarity"]["spearman"] for row in back["networks"]]
    assert row["mean"] == pytest.approx(np.mean(means) - np.mean(others))
    assert row["over"] == "runs"
    assert row["mean"] > 0  # the first group is nearer to the teacher
    assert "comparison" not in back
    one = explaining.measure(soft[:1], data.load("Digits"), ["GradCAM"], TEACHER, labels[:1], images=30)
    assert one["comparison"]["GradCAM"]["spearman"]["over"] == "images"
    assert one["networks"][0] == found["networks"][0]


@pytest.mark.slow
def test_masks_of_the_data_are_used(tmp_path):
    """An untrained network on Shapes: the measures of the masks are there and possible."""
    shapes = data.load("Shapes")
    model = models.create("CNN", shapes.num_classes, widths=(4, 4, 4, 4))
    channels = shapes.image_shape[-1]
    info = {"arch": "CNN", "options": {"widths": (4, 4, 4, 4)}, "num_classes": shapes.num_classes, "dataset": "Shapes"}
    info |= {"class_names": list(shapes.class_names), "image_shape": list(shapes.image_shape)}
    info |= {"mean": [0.5] * channels, "std": [0.25] * channels}
    variables = drawn(model, np.zeros((1, *shapes.image_shape), np.float32), 0)
    pretrained.save(tmp_path / "weights", variables, info)
    found = explaining.measure([str(tmp_path / "weights")], shapes, ["GradCAM"], images=12)
    values = found["networks"][0]["GradCAM"]
    assert 0 <= values["pointing"] <= 100
    assert 2 < values["iou"] < 60
    assert 2 < values["map"] < 100
    text = "\n".join(explaining.lines({"images": 12, "maps": found["networks"][0]}))
    assert "pointing game" in text
    assert f"{values['map']:.2f}" in text


def test_what_cannot_be_compared_is_told():
    digits = data.load("Digits")
    for options, message in (
        ({"baselines": [TEACHER]}, "add --teacher_param"),
        ({"baselines": [TEACHER] * 2, "teacher_param": TEACHER}, "has 2 runs, --param 1"),
        ({"images": -1}, "got -1"),
    ):
        with pytest.raises(UserError, match=message):
            explaining.measure([TEACHER], digits, ["GradCAM"], **options)
