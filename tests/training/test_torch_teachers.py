"""Runs whose teacher is a network of PyTorch, in the step and in a bank."""

import json
import warnings

import numpy as np
import pytest

import data
import models
from configs.resolve import resolve
from registry import UserError
from studies import evaluation, explaining
from training.builder import Builder
from training.train import train

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # PyTorch's own warnings
ARCH = "timm:test_resnet"
RUN = {"teacher_arch": ARCH, "teacher_input": "data", "student_arch": "ResNet8", "batch_size": 600, "train_epoch": 1}
RUN |= {"log_every": 1, "num_labels": 100}


@pytest.fixture(scope="module")
def param(tmp_path_factory):
    """A file of random weights for Digits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "torchvision", "timm", "torchax"):
            pytest.importorskip(name, reason="needs the extra `teachers`")
        import torch

        path = tmp_path_factory.mktemp("weights") / "teacher.pth"
        torch.save(models.registry.module(ARCH).create(ARCH, 10, 1).state_dict(), path)
    return str(path)


def test_features_and_logits_teach_and_the_weights_stay(param, tmp_path, capsys):
    run = {**RUN, "teacher_param": param, "teacher_taps": "layer1,layer2,layer4", "distiller": "SoftLogits+AT"}
    summary = train({**run, "train_path": str(tmp_path / "run")})
    printed = capsys.readouterr().out
    assert f"Teacher {ARCH} from {param}: test top-1" in printed
    assert "frozen. Devices:" in printed
    assert "agreement" in summary["last"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["AT"] > 0 and row["SoftLogits"] > 0 for row in rows if row["kind"] == "train")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher_arch"] == ARCH
    assert len(config["teacher_sha256"]) == 64
    assert not list((tmp_path / "run" / "checkpoints").rglob("*layer4*"))  # no checkpoint holds the teacher
    digits, torch = data.load("Digits"), {"taps": run["teacher_taps"], "stats": run["teacher_input"]}
    measured = evaluation.measure(str(tmp_path / "run"), digits, param, teacher_arch=ARCH, **torch)
    assert measured["agreement"] == pytest.approx(summary["last"]["agreement"])
    subject = explaining.subject_of(param, digits, "teacher", ARCH, **torch)
    assert (subject.name, subject.model.taps) == (f"teacher {ARCH}", ("layer1", "layer2", "layer4"))


def test_a_bank_holds_its_logits(param, tmp_path):
    run = {**RUN, "teacher_param": param, "teacher_views": 1, "distiller": "SoftLogits"}
    train({**run, "train_path": str(tmp_path / "run")}, quiet=True)
    assert np.load(tmp_path / "run" / "teacher_bank" / "values.npy").shape == (1, 1200, 10)


REFUSED = {
    "no taps": ({"distiller": "AT"}, "AT cannot train ResNet8: The teacher has no taps stage1"),
    "unknown tap": ({"teacher_taps": "layer1,layr2"}, "has no module 'layr2'. Did you mean 'layer2'"),
    "student": ({"student_arch": ARCH, "student_options": {"channels": 1}}, "which teaches and does not learn"),
    "not frozen": ({"transfer": "Online"}, "which teaches and does not learn"),
    "channels": ({"teacher_input": "own"}, "--teacher_input data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told(case, param):
    changes, message = REFUSED[case]
    recipe = {**RUN, "distiller": "SoftLogits", "teacher_param": param, **changes}
    with pytest.raises(UserError, match=message):
        Builder(resolve(recipe)[0])


def test_taps_and_input_are_keys_of_such_a_teacher(param):
    recipe = {**RUN, "distiller": "SoftLogits", "teacher_param": param, "teacher_taps": "layer1"}
    config, notes = resolve(recipe, tuple(recipe))
    assert (config.teacher_taps, config.teacher_input) == ("layer1", "data")
    assert not notes
