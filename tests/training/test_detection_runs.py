"""Detection through the engine: tiny detectors on Scenes learn, are taught, resume to the bit; what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from configs.resolve import resolve
from registry import UserError
from signals import Interrupted
from studies import compare, evaluation
from training.replica import Replica
from training.train import train

RECIPE = {"dataset": "tests.training.tiny_detectors:few", "student_arch": "tests.training.tiny_detectors:TinyRetinaNet"}
RECIPE |= {"batch_size": 60, "train_epoch": 2, "learning_rate": 0.05, "log_every": 5, "checkpoint_seconds": 1e9}
STEPS = 20  # 600 images in batches of 60, 2 epochs
ARCH = RECIPE["student_arch"]
METHOD = {"distiller": "SoftLogits+FGD", "distiller_options": {"FGD": {"stages": "p3-p7"}, "ce_weight": 1.0}}

slow = pytest.mark.slow


def weights(folder):
    return safetensors.numpy.load_file(folder / "last" / "weights.safetensors")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    train({**RECIPE, "transfer": "Labels", "train_path": str(folder)}, quiet=True)
    return folder


@pytest.fixture(scope="module")
def taught(teacher, tmp_path_factory):
    """An uninterrupted run of two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "taught"
    recipe = {**RECIPE, **METHOD, "teacher_param": str(teacher), "teacher_arch": ARCH, "seeds": 2}
    return folder, train({**recipe, "train_path": str(folder)}, quiet=True)


@slow
def test_a_detector_learns_and_is_measured(teacher):
    rows = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.95 * losses[0]
    tests = [row for row in rows if row["kind"] == "test"]
    assert [row["step"] for row in tests] == [10, 20]
    assert all(0 <= row["AP"] <= row["AP50"] <= 100 for row in tests)
    with pytest.raises(UserError, match="is a run of detectors"):
        compare.read(teacher, "teacher")


@slow
def test_two_seeds_are_taught_by_scores_and_levels(taught):
    folder, summary = taught
    assert summary["last"]["AP"].keys() == {"mean", "std"}
    rows = [json.loads(line) for line in (folder / "s0" / "metrics.jsonl").read_text().splitlines()]
    found = next(row for row in rows if row["kind"] == "train")
    terms = {"detection", "SoftLogits", "FGD_foreground", "FGD_background", "FGD_attention", "FGD_relation"}
    assert terms <= found.keys()
    assert {f"share/{term}" for term in terms} <= found.keys()
    one, other = weights(folder / "s0"), weights(folder / "s1")
    assert any((one[name] != other[name]).any() for name in one)


@slow
def test_a_stopped_run_continues_to_the_same_bits(teacher, taught, tmp_path, monkeypatch):
    recipe = {
        **RECIPE,
        **METHOD,
        "teacher_param": str(teacher),
        "teacher_arch": ARCH,
        "seeds": 2,
        "train_path": str(tmp_path / "run"),
    }
    whole, write = taught[0], Replica.write_log

    def stopping(self, step):
        if step == 15 and not stopped:
            stopped.append(step)
            raise Interrupted("as if by a signal")
        return write(self, step)

    stopped = []
    monkeypatch.setattr(Replica, "write_log", stopping)
    with pytest.raises(Interrupted):
        train(recipe, quiet=True)
    train(recipe, quiet=True)
    assert stopped == [15]
    for seed in ("s0", "s1"):
        own, expected = weights(tmp_path / "run" / seed), weights(whole / seed)
        assert own.keys() == expected.keys()
        assert all(np.array_equal(own[name], expected[name]) for name in own)


@slow
def test_evaluate_measures_what_the_run_recorded(teacher):
    import data

    dataset = data.load("Scenes")
    found = evaluation.measure(str(teacher), dataset, arch=ARCH)
    recorded = json.loads((teacher / "summary.json").read_text())["best"]
    assert found["AP"] == pytest.approx(recorded["AP"], abs=1e-6)


TWO_STAGES = {**RECIPE, "student_arch": "tests.training.tiny_detectors:TinyFasterRCNN", "train_epoch": 1}


@slow
def test_two_stages_and_a_teacher_that_learns(tmp_path):
    recipe = {**TWO_STAGES, "distiller": "DKD+PKD", "distiller_options": {"PKD": {"stages": "p2-p6"}}}
    summary = train({**recipe, "transfer": "Online", "train_path": str(tmp_path / "run")}, quiet=True)
    assert summary["last"].keys() >= {"AP", "AP50", "teacher/AP"}
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    found = next(row for row in lines if row["kind"] == "train")
    assert found.keys() >= {"DKD_target", "DKD_others", "PKD", "detection", "rpn_class_loss", "rpn_box_loss"}
    assert all(np.isfinite(value) for value in found.values() if isinstance(value, float))


REFUSED = {
    "mixed images": {"transfer": "Labels", "mixup": 0.2},
    "rotated images": {"transfer": "Labels", "randaugment": 2},
    "a bank": {"teacher_param": "tests/teacher", "teacher_views": 2},
    "several views": {"teacher_param": "tests/teacher", "distiller": "MLKD"},
    "logits of an image": {"transfer": "PSKD"},
    "another task": {"transfer": "Labels", "task": "classification"},
    "a reflected border": {"transfer": "Labels", "crop_pad": 4, "crop_mode": "reflect"},
}


@pytest.mark.parametrize("recipe", REFUSED.values(), ids=REFUSED)
def test_what_needs_a_class_for_each_image_is_refused(recipe):
    with pytest.raises(UserError, match="Scenes"):
        resolve({**RECIPE, "dataset": "Scenes", **recipe})


@pytest.mark.parametrize("mistake", [{"student_arch": "ResNet8"}, {"dataset": "Digits"}])
def test_networks_and_labels_of_two_tasks_are_refused(mistake, tmp_path):
    recipe = {**RECIPE, **mistake, "transfer": "Labels", "train_path": str(tmp_path / "run")}
    with pytest.raises(UserError, match="cannot train"):
        train(recipe, quiet=True)
