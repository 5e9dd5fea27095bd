"""What a trained teacher is asked at the start, and what at the first evaluation."""

import contextlib
import dataclasses
import threading

import numpy as np
import pytest
from training.evaluation import frozen_player_of
from training.metrics import evaluate
from training.run import train

import data
import pretrained
from training import loop, teachers
from training.signals import Interrupted, Stop
from training.teachers import TeacherAnswers

TEACHER = "tests/teacher"


@pytest.fixture
def asked(monkeypatch):
    """changes of `model.json` -> (answers, lines said), with 100 of the 597 images as the sample."""
    monkeypatch.setattr(teachers, "SAMPLE", 100)
    weights = pretrained.load(TEACHER)

    def ask(count: int = 1, **changes):
        own = dataclasses.replace(weights, info={**weights.info, **changes})
        said = []
        players = [frozen_player_of(own, "teacher")] * count
        return TeacherAnswers([own] * count, players, data.load("Digits"), said.append), said

    return ask


def test_sample_to_check_and_everything_when_it_is_needed(asked, capsys):
    answers, said = asked()
    answers.check()
    assert len(said) == 1
    assert said[0].endswith("% on 100 of 597 images")
    logits = answers.logits()
    assert logits.shape == (597, 10)
    assert len(said) == 2
    right = evaluate(logits, data.load("Digits").test.labels)["top1"]
    assert said[1].endswith(f"test top-1 {right:.2f} %")
    assert answers.logits() is logits  # asked once
    assert len(said) == 2
    assert capsys.readouterr().err == ""


def test_sample_is_spread_over_the_split_and_answered_as_the_whole_is(asked, monkeypatch):
    seen = []
    real = teachers.Predictor.sample

    def spy(self, variables, rows):
        seen.append((rows, real(self, variables, rows)))
        return seen[-1][1]

    monkeypatch.setattr(teachers.Predictor, "sample", spy)
    answers, _ = asked()
    answers.check()
    everything = answers.logits()
    ((rows, some),) = seen
    assert rows[0] == 0
    assert set(np.diff(rows)) == {5, 6}
    np.testing.assert_array_equal(some, everything[rows])


def test_small_split_is_asked_once_and_whole(asked, monkeypatch):
    monkeypatch.setattr(teachers, "SAMPLE", 597)
    answers, said = asked()
    answers.check()
    answers.logits()
    assert len(said) == 1
    assert said[0].endswith(" %")


@pytest.mark.parametrize(
    ("points", "at_start", "at_the_end"), [(0.5, False, False), (4, False, True), (30, True, True)]
)
def test_worse_than_recorded_is_told_beyond_chance(points, at_start, at_the_end, asked, capsys):
    right = evaluate(asked()[0].logits(), data.load("Digits").test.labels)["top1"]
    answers, _ = asked(test_top1=right - points)
    answers.check()
    assert ("recorded test top-1" in capsys.readouterr().err) == at_start
    answers.logits()
    assert ("recorded test top-1" in capsys.readouterr().err) == at_the_end


def test_a_teacher_is_checked_once(asked):
    answers, said = asked()
    answers.check()
    answers.check()
    assert len(said) == 1


def test_who_has_been_asked_about_everything_is_not_asked_again(asked, monkeypatch):
    answers, said = asked()
    answers.logits()
    monkeypatch.setattr(teachers.Predictor, "sample", None)
    answers.check()
    assert len(said) == 1


@pytest.mark.parametrize("stops", [False, True])
def test_a_command_is_checked_after_its_first_update_and_may_end_at_once(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "SAMPLE", 100)
    stop, events, check, update = Stop(), [], TeacherAnswers.check, loop.Trainer.__call__
    stop.at_once = True  # as `signals.before_training` leaves it

    def watched_update(self, *arguments):
        events.append("update")
        if stops:
            stop.set()
        return update(self, *arguments)

    def watched_check(self):
        events.append(("check", stop.at_once))
        check(self)

    monkeypatch.setattr(loop, "asked_to_stop", lambda: contextlib.nullcontext(stop))
    monkeypatch.setattr(loop.Trainer, "__call__", watched_update)
    monkeypatch.setattr(TeacherAnswers, "check", watched_check)
    recipe = {"teacher_param": TEACHER, "student_arch": "CNN", "batch_size": 600, "train_epoch": 1}
    recipe |= {"train_path": str(tmp_path / "run")}
    with pytest.raises(Interrupted) if stops else contextlib.nullcontext():
        train(recipe, quiet=True)
    assert events == (["update"] if stops else ["update", ("check", True), "update"])
    assert not stop.at_once


def test_classes_in_another_order_are_told_at_the_start(asked, capsys):
    names = data.load("Digits").class_names
    answers, _ = asked(class_names=[f"digit {name}" for name in names])
    answers.check()
    assert "classes" in capsys.readouterr().err


def test_several_teachers_give_the_mean_and_all_are_told(asked):
    answers, said = asked(count=2)
    np.testing.assert_allclose(answers.logits(), asked()[0].logits(), rtol=1e-6)
    assert len(said) == 2


def test_a_signal_on_the_way_leaves_the_question_open(asked):
    answers, said = asked()
    stopping = threading.Event()
    stopping.set()
    assert answers.logits(stopping) is None
    assert said == []
    assert answers.logits(threading.Event()).shape == (597, 10)


def test_sampled_run_ends_as_the_whole_one(tmp_path, monkeypatch):
    recipe = {"dataset": "Digits", "student_arch": "CNN", "train_epoch": 1, "num_labels": 100, "batch_size": 64}
    recipe |= {"teacher_param": TEACHER, "distiller": "SoftLogits", "transfer": "Offline"}
    found = []
    for sample in (1000, 50):
        monkeypatch.setattr(teachers, "SAMPLE", sample)
        found.append(train({**recipe, "train_path": str(tmp_path / str(sample))}, quiet=True)["last"])
    assert found[0] == found[1]
    assert found[0]["agreement"] > 5
