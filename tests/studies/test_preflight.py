"""Each usual mistake is found, and a sound recipe has none."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import pretrained
from configs.command import Command
from registry import UserError
from studies import preflight
from studies.preflight import LOOK, OK, WRONG

TEACHER = "tests/teacher"
SOUND = {"dataset": "Digits", "teacher_param": TEACHER, "student_arch": "CNN", "distiller": "SoftLogits"}
SOUND |= {"transfer": "Offline", "batch_size": 64, "train_epoch": 2}


def changed(folder, shift=0.0, order=None, noise=0.0, **info):
    """Saves the test teacher with another normalisation, order of its outputs, or noise; returns the folder."""
    weights = pretrained.load(TEACHER)
    params = dict(weights.variables["params"])
    if noise:
        random = np.random.RandomState(0)
        params = preflight.jax.tree.map(lambda x: noise * random.standard_normal(x.shape).astype(x.dtype), params)
    if order is not None:
        params["classifier"] = {key: np.asarray(x)[..., order] for key, x in params["classifier"].items()}
    mean = [m + shift for m in weights.info["mean"]]
    pretrained.save(folder, {**weights.variables, "params": params}, {**weights.info, "mean": mean, **info})
    return str(folder)


def marks(found, part):
    """The marks of the findings whose text has `part` in it."""
    return [finding.mark for finding in found if part in finding.text]


def write_baseline(folder, top1, **changes):
    """Writes a finished run of the sound student on labels alone."""
    config = preflight.resolve.plain(
        preflight.resolve.resolve({**SOUND, "transfer": "Labels", "distiller": "", **changes})[0]
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "data": "", "teacher_sha256": None}))
    row = {"epoch": 2, "top1": top1}
    summary = {"last": row, "best": row, "parameters": 1, "seconds": 1.0, "steps": 1}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.slow
def test_a_sound_recipe_with_a_baseline_has_no_mistake(tmp_path):
    write_baseline(tmp_path / "labels", 90.0)
    (tmp_path / "notes").mkdir()
    found = preflight.examine({**SOUND, "train_path": str(tmp_path / "soft")})
    assert [finding.mark for finding in found] == [OK] * 9
    assert marks(found, "labels is the same student on labels alone") == [OK]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "notes"]


@pytest.mark.slow
def test_each_mistake_is_found(tmp_path):
    write_baseline(tmp_path / "labels", 99.9, batch_size=4)
    recipe = {**SOUND, "train_path": str(tmp_path / "soft"), "distiller_options": {"weight": 1e6}}
    recipe |= {"batch_size": 4, "learning_rate": 1.5, "teacher_param": changed(tmp_path / "shifted", shift=0.8)}
    found = preflight.examine(recipe)
    assert marks(found, "recorded test top-1") == [WRONG]
    assert marks(found, "is not better than the student on labels alone") == [LOOK]
    assert marks(found, "SoftLogits 100.0 %") == [LOOK]
    assert marks(found, "statistics over 4 images") == [WRONG]
    assert marks(found, "1.5 is far from what is usual for CNN with sgd at batch 4: 0.0031") == [LOOK]
    assert marks(found, "evaluation mode") == [OK]
    recipe = {**SOUND, "batch_size": 63, "train_path": str(tmp_path / "other" / "soft")}
    recipe |= {"teacher_param": changed(tmp_path / "noise", noise=1.0, test_top1=None)}
    found = preflight.examine(recipe)
    assert marks(found, "not better than chance") == [WRONG]
    assert marks(found, "Without one nobody knows") == [LOOK]


@pytest.mark.slow
def test_another_order_of_the_classes_is_found(tmp_path):
    order = np.roll(np.arange(10), 1)
    teacher = changed(tmp_path / "turned", order=order, class_names=[str(i) for i in range(10)], test_top1=None)
    found = preflight.examine({**SOUND, "teacher_param": teacher, "train_path": str(tmp_path / "soft")})
    assert WRONG in [finding.mark for finding in found if "order" in finding.text or "chance" in finding.text]


def test_a_teacher_in_training_mode_is_found():
    class Parts:
        """A teacher whose answers are centred over the batch."""

        rows = np.arange(4)
        builder = type("B", (), {"teachers": [(pretrained.load(TEACHER), None, None)]})
        shared = type("S", (), {"exams": [type("E", (), {"images": None})]})

    answers = [np.eye(4)[:1], np.zeros((1, 4))]
    Parts.asked = [(lambda *_: answers.pop(0), np.eye(4))]
    assert [f.mark for f in preflight.evaluation_mode(Parts)] == [OK]
    assert [f.mark for f in preflight.evaluation_mode(Parts)] == [WRONG]


def test_a_training_that_cannot_begin_is_one_line(tmp_path, capsys):
    gone = {**SOUND, "teacher_param": str(tmp_path / "gone")}
    assert preflight.run(Command(gone, (), {})) == 1
    assert capsys.readouterr().out.startswith("wrong  The training cannot begin: ")
    with pytest.raises(UserError):
        preflight.examine(gone)


def test_runs_that_do_not_compare_are_no_baseline(tmp_path):
    write_baseline(tmp_path / "labels", 90.0)
    config = json.loads((tmp_path / "labels" / "config.json").read_text())
    config["train_path"] = str(tmp_path / "soft")
    assert preflight.baselines_of(config) == [tmp_path / "labels"]
    assert preflight.baselines_of({**config, "train_epoch": 3}) == []
    shutil.copytree(tmp_path / "labels", tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{")
    assert preflight.baselines_of(config) == [tmp_path / "labels"]
    assert preflight.last_of(pathlib.Path(tmp_path / "labels"), "top1") == 90.0
