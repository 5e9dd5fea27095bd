"""A run of SimKD: the student starts with the teacher's classifier and keeps it."""

import numpy as np
import pytest
from safetensors.numpy import load_file as load

import data
import pretrained
from configs.resolve import resolve
from registry import UserError
from studies import evaluation
from training.train import train

pytestmark = pytest.mark.slow

RUN = {
    "distiller": "SimKD",
    "teacher_param": "tests/teacher",
    "student_arch": "Projected",
    "student_options": {"backbone": "CNN", "backbone_options": {"widths": (4, 4, 8, 8)}, "width": 64},
    "batch_size": 100,
    "train_epoch": 2,
    "checkpoint_seconds": 1e9,
}
HEAD = {"init_head": "teacher", "freeze": "classifier"}


@pytest.mark.parametrize("without", [*HEAD, ""])
def test_a_classifier_that_nothing_teaches_is_refused(without):
    recipe = {**RUN, **{key: value for key, value in HEAD.items() if key != without and without}}
    with pytest.raises(
        UserError, match=r"SimKD does not teach the classifier.*\nAdd --init_head teacher --freeze class"
    ):
        resolve(recipe)
    resolve({**recipe, "distiller_options": {"ce_weight": 1.0}})
    resolve({**recipe, "distiller": "SoftLogits+SimKD"})


def test_a_student_without_a_projector_is_refused_before_anything_compiles(tmp_path):
    run = {**RUN, **HEAD, "student_arch": "ResNet8", "student_options": {}, "train_path": str(tmp_path / "run")}
    with pytest.raises(
        UserError, match=r"SimKD cannot train ResNet8: SimKD teaches(?s:.*)\nTake --student_arch Projected"
    ):
        train(run, quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_students_classifier_is_the_teachers_bit_for_bit_and_the_run_can_be_measured(tmp_path):
    summary = train({**RUN, **HEAD, "train_path": str(tmp_path / "run")}, quiet=True)
    last = load(tmp_path / "run" / "last" / "weights.safetensors")
    teacher = pretrained.load("tests/teacher").variables["params"]["classifier"]
    for name in ("kernel", "bias"):
        assert np.array_equal(last[f"params/classifier/{name}"], teacher[name]), name
    assert summary["last"]["top1"] > 30  # chance is 10; labels are not used
    measured = evaluation.measure(str(tmp_path / "run"), data.load("Digits"), "tests/teacher")
    assert measured["top1"] == pytest.approx(summary["last"]["top1"])
    again = {**RUN, "distiller": "SoftLogits", "student_arch": "CNN", "student_options": {}, "train_epoch": 1}
    train({**again, "teacher_param": str(tmp_path / "run"), "train_path": str(tmp_path / "next")}, quiet=True)


def test_a_run_with_a_frozen_classifier_and_a_queue_continues_bit_for_bit(tmp_path, stopped_at):
    recipe = {**RUN, **HEAD, "distiller": "SimKD+RRD", "distiller_options": {"RRD": {"queue": 256}}, "train_epoch": 1}
    train({**recipe, "train_path": str(tmp_path / "whole")}, quiet=True)
    with stopped_at(7):
        train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    whole, resumed = (load(tmp_path / name / "last" / "weights.safetensors") for name in ("whole", "run"))
    assert all(np.array_equal(resumed[name], value) for name, value in whole.items())
