"""Runs that start from trained weights."""

import json

import numpy as np
import pytest
import safetensors.numpy

import pretrained
from configs.resolve import resolve
from registry import UserError
from training.train import train

pytestmark = pytest.mark.slow

RUN = {"student_arch": "ResNet8", "transfer": "Labels", "train_epoch": 1, "batch_size": 400, "checkpoint_seconds": 1e9}


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "run"
    train({**RUN, "train_path": str(path)}, quiet=True)
    return path


def test_a_run_goes_on_from_weights_with_frozen_parts_and_a_rate_of_its_heads_own(base, tmp_path, stopped_at):
    recipe = {**RUN, "init_param": str(base), "freeze": "stem,stage1", "head_learning_rate": 0.5, "train_epoch": 2}
    train({**recipe, "train_path": str(tmp_path / "whole")}, quiet=True)
    before, after = weights(base / "last"), weights(tmp_path / "whole" / "last")
    for name, value in before.items():
        still = name.split("/")[1].split("_")[0] in ("stem", "stage1")
        assert np.array_equal(after[name], value) == still, name
    env = json.loads((tmp_path / "whole" / "env.json").read_text())
    assert env["start"][0].startswith(f"The student starts from {base / 'last'}: 47 of 47 arrays")
    assert env["start"][1] == "Frozen in the student: stem, stage1 (15 arrays)."
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["init_sha256"] == pretrained.load(base).sha256
    with stopped_at(4):
        train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    with pytest.raises(UserError, match="init_sha256"):
        train({**recipe, "init_param": "tests/teacher", "train_path": str(tmp_path / "run")}, quiet=True)
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    resumed = weights(tmp_path / "run" / "last")
    assert all(np.array_equal(resumed[name], value) for name, value in after.items())


def test_peers_start_from_a_list_and_a_student_from_the_teachers_classifier(base, tmp_path, capsys):
    group = {**RUN, "transfer": "Mutual", "teacher_arch": "ResNet8", "learning_rate": 1e-9, "weight_decay": 0.0}
    group |= {"init_param": f"{base},{base}", "train_path": str(tmp_path / "group")}
    train(group)
    assert "The peer1 starts from" in capsys.readouterr().out
    before = weights(base / "last")
    for name in ("last", "peer1"):
        after = weights(tmp_path / "group" / name)
        assert all(np.allclose(after[k], v, atol=1e-6) for k, v in before.items() if k.startswith("params")), name
    with pytest.raises(UserError, match="names 3 weights, and 2 of the networks"):
        train({**group, "init_param": f"{base},{base},{base}", "train_path": str(tmp_path / "three")}, quiet=True)
    soft = {**RUN, "transfer": "Offline", "distiller": "SoftLogits", "teacher_param": str(base), "init_head": "teacher"}
    soft |= {"learning_rate": 1e-9, "weight_decay": 0.0, "train_path": str(tmp_path / "soft")}
    train(soft, quiet=True)
    after = weights(tmp_path / "soft" / "last")
    for name, value in before.items():
        if name.endswith("kernel"):
            assert np.allclose(after[name], value, atol=1e-6) == ("classifier" in name), name


def test_the_architecture_is_that_of_the_weights_unless_it_is_named():
    config, _ = resolve({"init_param": "tests/teacher", "transfer": "Labels"})
    info = pretrained.load("tests/teacher").info
    assert (config.student_arch, config.student_options.to_dict()) == (info["arch"], info.get("options", {}))
    config, _ = resolve({"init_param": "tests/teacher", "transfer": "Labels", "student_arch": "ResNet20"})
    assert config.student_arch == "ResNet20"


@pytest.mark.parametrize("key", ["freeze", "head_learning_rate"])
def test_what_belongs_to_weights_has_no_effect_without_them(key):
    with pytest.raises(
        UserError, match=f"--{key} .*has no effect: 'init_param' is not set and 'init_head' is not 'teacher'"
    ):
        resolve({key: "stem" if key == "freeze" else 0.1}, (key,))


@pytest.mark.parametrize(("key", "value"), [("freeze", "classifier"), ("head_learning_rate", 0.1)])
def test_a_classifier_that_is_the_teachers_may_stay_or_have_a_rate_of_its_own(key, value):
    given = {"init_head": "teacher", "teacher_param": "tests/teacher", key: value}
    config, _ = resolve(given, tuple(given))
    assert config[key] == value
