"""What a trained teacher is asked at the start, and what at the first test."""

import dataclasses

import numpy as np
import pytest

import data
import pretrained
import tasks
from pretrained.players import player_of
from training import teachers
from training.answers import Answers
from training.devices import here
from training.teachers import Teachers
from training.train import train

TEACHER = "tests/teacher"
TASK = tasks.create("classification")


def never():
    return False


def mean_of(teachers):
    """Their logits on the test split."""
    return teachers.logits(teachers.test, never)


@pytest.fixture
def asked(monkeypatch):
    """changes of `model.json` -> (teachers, lines said), with 100 of the 597 images as the sample."""
    monkeypatch.setattr(teachers, "BATCH", 100)
    weights, dataset = pretrained.load(TEACHER), data.load("Digits")
    test = data.Exam("test", here().place(dataset.test.images), dataset.test.labels)

    def ask(count: int = 1, **changes):
        own = dataclasses.replace(weights, info={**weights.info, **changes})
        said = []
        loaded = [(own, *player_of(own, "teacher", frozen=True))] * count
        return Teachers(loaded, dataset, test, here(), TASK, said.append), said

    return ask


def test_sample_to_check_and_everything_when_it_is_needed(asked, capsys):
    answers, said = asked()
    answers.check()
    assert len(said) == 1
    assert said[0].endswith("% on 100 of 597 images")
    logits = mean_of(answers)
    assert logits.shape == (597, 10)
    assert len(said) == 2
    right = TASK.metrics(logits, data.load("Digits").test.labels)["top1"]
    assert said[1].endswith(f"test top-1 {right:.2f} %")
    assert mean_of(answers) is logits  # asked once
    assert len(said) == 2
    assert capsys.readouterr().err == ""


def test_sample_is_spread_over_the_split_and_answered_as_the_whole_is(asked, monkeypatch):
    seen, call = [], Answers.__call__

    def spy(self, variables, images, rows=None, **options):
        seen.append((rows, call(self, variables, images, rows, **options)))
        return seen[-1][1]

    monkeypatch.setattr(Answers, "__call__", spy)
    answers, _ = asked()
    answers.check()
    everything, (rows, some) = mean_of(answers), seen[0]
    assert (rows[0], rows[-1]) == (0, 596)
    assert set(np.diff(rows)) <= {6, 7}
    np.testing.assert_allclose(some, everything[rows], rtol=1e-5, atol=1e-6)  # a row's place in a batch rounds


def test_a_small_split_is_told_of_once(asked, monkeypatch):
    monkeypatch.setattr(teachers, "BATCH", 597)
    answers, said = asked()
    answers.check()
    mean_of(answers)
    assert len(said) == 1
    assert said[0].endswith(" %")


@pytest.mark.parametrize(
    ("points", "at_start", "at_the_end"), [(0.5, False, False), (4, False, True), (30, True, True)]
)
def test_worse_than_recorded_warns_beyond_chance(points, at_start, at_the_end, asked, capsys):
    right = TASK.metrics(mean_of(asked()[0]), data.load("Digits").test.labels)["top1"]
    capsys.readouterr()
    answers, _ = asked(test_top1=right - points)
    answers.check()
    assert ("recorded test top-1" in capsys.readouterr().err) == at_start
    mean_of(answers)
    assert ("recorded test top-1" in capsys.readouterr().err) == at_the_end


def test_classes_in_another_order_warn_at_the_start(asked, capsys):
    names = data.load("Digits").class_names
    answers, _ = asked(class_names=[f"digit {name}" for name in names])
    answers.check()
    assert "classes" in capsys.readouterr().err


def test_several_teachers_give_the_mean_and_each_is_told_of(asked):
    answers, said = asked(count=2)
    np.testing.assert_allclose(mean_of(answers), mean_of(asked()[0]), rtol=1e-6)
    assert len(said) == 2


def test_a_signal_on_the_way_leaves_the_question_open(asked):
    answers, said = asked()
    assert answers.logits(answers.test, lambda: True) is None
    assert said == []
    assert mean_of(answers).shape == (597, 10)


@pytest.mark.slow
def test_sampled_run_ends_as_the_whole_one(tmp_path, monkeypatch):
    recipe = {"dataset": "Digits", "student_arch": "CNN", "train_epoch": 1, "num_labels": 100, "batch_size": 600}
    recipe |= {"teacher_param": TEACHER, "distiller": "SoftLogits", "transfer": "Offline"}
    found = []
    for sample in (1000, 50):
        monkeypatch.setattr(teachers, "BATCH", sample)
        found.append(train({**recipe, "train_path": str(tmp_path / str(sample))}, quiet=True)["last"])
    assert found[0] == found[1]
    assert found[0]["agreement"] > 5
