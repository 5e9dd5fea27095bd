"""Students that compute with numbers of integers: they learn, resume, and say what they are."""

import json

import numpy as np
import pytest
import safetensors.numpy

import evaluate
import pretrained
from configs import command
from configs.resolve import resolve
from registry import UserError
from training.train import train

pytestmark = pytest.mark.slow

RUN = {"student_arch": "CNN", "teacher_param": "tests/teacher", "init_param": "tests/teacher"}
RUN |= {"student_quantize": "int4", "distiller": "SoftLogits", "batch_size": 400, "checkpoint_seconds": 1e9}


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


def test_a_quantised_student_learns_from_its_float_self_resumes_bit_for_bit_and_says_what_it_is(
    tmp_path, capsys, monkeypatch, stopped_at
):
    recipe = {**RUN, "train_epoch": 1, "train_path": str(tmp_path / "whole")}
    train(recipe)
    assert "Quantised in the student: 5 layers, weights of 4 bits" in capsys.readouterr().out
    folder, recipe = tmp_path / "whole" / "last", {**recipe, "train_path": str(tmp_path / "run")}
    with stopped_at(2):
        train(recipe, quiet=True)
    train(recipe, quiet=True)
    whole, resumed = weights(folder), weights(tmp_path / "run" / "last")
    assert all(np.array_equal(resumed[name], value) for name, value in whole.items())
    info = pretrained.load(folder).info
    assert info["options"] == {"quantize": "int4"}
    monkeypatch.setattr(command, "prepare", lambda given: None)
    capsys.readouterr()
    evaluate.main(["--param", str(folder)])
    assert ", fake-quantised: weights of 4 bits" in capsys.readouterr().out
    written = json.loads((folder / "evaluation-Digits.json").read_text())
    assert abs(written["top1"] - info["test_top1"]) < 1e-6  # the run's test has rounded as well
    assert written["arithmetic"].startswith("fake-quantised")


def test_a_student_that_cannot_be_quantised_is_refused_before_anything_compiles(tmp_path):
    vit = {"student_arch": "ViT_Ti", "student_options": {"depth": 4, "patch_size": 4}, "student_quantize": "int8"}
    with pytest.raises(UserError, match=r"The student \(ViT\) cannot be quantised"):
        train({**vit, "transfer": "Labels", "train_path": str(tmp_path / "x")}, quiet=True)
    with pytest.raises(UserError, match="--student_quantize int8 has no effect: 'dtype' is 'bfloat16', not 'float32'"):
        resolve({"student_quantize": "int8", "dtype": "bfloat16"}, ("student_quantize",))
    with pytest.raises(UserError, match="student_quantize"):
        resolve({"student_quantize": "int2"})
