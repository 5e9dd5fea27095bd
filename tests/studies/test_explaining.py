"""From folders of weights to measures and pictures."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import data
import pretrained
from registry import UserError
from training import explaining
from training.train import train

TEACHER = "tests/teacher"
RUN = {"student_arch": "CNN", "train_epoch": 3, "batch_size": 400, "teacher_param": TEACHER, "checkpoint_seconds": 1e9}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """Two seeds by a method, with the weights of every epoch, and two by labels."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        run = {**RUN, "seed": seed, "keep_epochs": 2}
        train({**run, "train_path": str(root / f"soft-s{seed}")}, quiet=True)
        train({**run, "transfer": "Labels", "train_path": str(root / f"labels-s{seed}")}, quiet=True)
    return root


def test_weights_of_every_second_epoch_are_kept(students):
    assert [p.name for p in (students / "soft-s0" / "epochs").iterdir()] == ["0002"]
    kept = pretrained.load(students / "soft-s0" / "epochs" / "0002")
    lines = map(json.loads, (students / "soft-s0" / "metrics.jsonl").read_text().splitlines())
    (tested,) = [row for row in lines if row["kind"] == "test" and row["epoch"] == 2]
    assert kept.info["test_top1"] == tested["top1"]
    subject = explaining.subject_of(str(kept.folder), data.load("Digits"), "network")
    test = data.load("Digits").test
    assert 100 * (subject.answers(test.images)[0].argmax(axis=1) == test.labels).mean() == pytest.approx(tested["top1"])
    assert subject.name == "epoch 2"


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_resumed_run_keeps_the_same_weights(step, students, tmp_path, stopped_at):
    """Interrupted before, at and after the end of the second epoch (3 steps each)."""
    run = {**RUN, "keep_epochs": 2, "train_path": str(tmp_path / "run")}
    with stopped_at(step):
        train(run, quiet=True)
    assert (tmp_path / "run" / "epochs").exists() == (step > 6)  # an epoch that was not tested yet is kept later
    train(run, quiet=True)
    for file in ("epochs/0002/weights.safetensors", "last/weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (students / "soft-s0" / file).read_bytes()


def test_keeping_epochs_is_no_other_run(students, tmp_path):
    """A run that was begun without goes on with it."""
    shutil.copytree(students / "soft-s0", tmp_path / "run")
    summary = train({**RUN, "keep_epochs": 1, "train_path": str(tmp_path / "run")}, quiet=True)
    assert summary["steps"] == 9
    with pytest.raises(UserError, match="'keep_epochs' must not be negative; got -1"):
        train({**RUN, "keep_epochs": -1, "train_path": str(tmp_path / "other")}, quiet=True)


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


@pytest.mark.parametrize("kind", explaining.KINDS)
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
    assert "comparison" not in back
    one = explaining.measure(soft[:1], data.load("Digits"), ["GradCAM"], TEACHER, labels[:1], images=30)
    assert one["comparison"]["GradCAM"]["spearman"]["over"] == "images"
    assert one["networks"][0] == found["networks"][0]


@pytest.mark.slow
def test_masks_of_the_data_are_used(tmp_path):
    """A network of two steps on Shapes: the measures of the masks are there and possible."""
    run = {"dataset": "Shapes", "student_arch": "CNN", "transfer": "Labels", "train_epoch": 1, "batch_size": 1200}
    train({**run, "train_path": str(tmp_path / "run")}, quiet=True)
    found = explaining.measure([str(tmp_path / "run")], data.load("Shapes"), ["GradCAM"], images=12)
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
