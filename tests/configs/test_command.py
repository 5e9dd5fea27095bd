"""`parse`: a pure function from arguments to a recipe."""

import os
import sys

import pytest

import evaluate
import train_teacher
import train_w_kd
from configs.command import parse, read_recipe
from configs.resolve import resolve
from registry import UserError

RECIPE = """
from ml_collections import ConfigDict


def get_config(rate="0.5"):
    return ConfigDict({"learning_rate": float(rate), "momentum": 0.5, "weight_decay": 0.5, "train_epoch": 1})
"""
SMALL = ["--teacher_param", "tests/teacher", "--student_arch", "CNN"]


@pytest.fixture
def recipe(tmp_path):
    """The path of a recipe file that sets four keys."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    return str(tmp_path / "recipe.py")


def test_a_flag_beats_an_override_beats_the_recipe(recipe):
    overrides = ["--config.learning_rate=0.25", "--config.momentum=0.25"]
    given = train_w_kd.parse(["--config", recipe, *overrides, "--learning_rate", "0.125", *SMALL])
    expected = {"learning_rate": 0.125, "momentum": 0.25, "weight_decay": 0.5, "train_epoch": 1}
    assert given.recipe == {**expected, "teacher_param": "tests/teacher", "student_arch": "CNN"}
    assert sorted(given.typed) == ["learning_rate", "momentum", "student_arch", "teacher_param"]
    config, notes = resolve(given.recipe, given.typed)
    assert {key: config[key] for key in expected} == expected
    assert not notes


def test_a_recipe_takes_an_argument(recipe):
    assert read_recipe(f"{recipe}:0.75")["learning_rate"] == 0.75


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--momentum", "0.95"], {"momentum": 0.95}),
        (["--config.momentum=0.95"], {"momentum": 0.95}),
        (["--config.momentum", "0.95"], {"momentum": 0.95}),
        (["--milestones", "(0.3, 0.6)"], {"milestones": (0.3, 0.6)}),
        (["--config.milestones=0.3,0.6"], {"milestones": (0.3, 0.6)}),
        (["--config.transfer_options.generations=3"], {"transfer_options": {"generations": 3}}),
        (["--config.distiller_options.AT.weight=2.5"], {"distiller_options": {"AT": {"weight": 2.5}}}),
        (
            ["--config.distiller_options.mode=mean", "--config.distiller_options={'p': 2}"],
            {"distiller_options": {"p": 2}},
        ),
        (["--steps_per_call", "7"], {"steps_per_call": "7"}),
        (["--student_arch=CNN"], {"student_arch": "CNN"}),
    ],
    ids=str,
)
def test_what_is_typed_becomes_a_value_of_the_keys_type(argv, expected):
    assert train_w_kd.parse(argv).recipe == expected
    assert train_w_kd.parse(argv).typed == tuple(expected)


def test_an_option_of_one_part_reaches_it():
    flags = ["--distiller", "SoftLogits+AT", "--config.distiller_options.AT.weight=500", *SMALL]
    given = train_w_kd.parse(flags)
    assert resolve(given.recipe, given.typed)[0].distiller_options.to_dict() == {"AT": {"weight": 500}}
    wrong = train_w_kd.parse([*flags, "--config.distiller_options.Logits.weight=1"])
    with pytest.raises(UserError, match="has no option 'Logits'"):
        resolve(wrong.recipe)


def test_a_teacher_is_trained_on_labels_alone():
    given = train_teacher.parse(["--arch", "CNN", "--num_labels", "50"])
    assert given.recipe == {"student_arch": "CNN", "transfer": "Labels", "num_labels": 50}
    assert train_teacher.parse(["--config", "configs/digits.py"]).recipe["student_arch"] == "ResNet20"
    assert train_teacher.parse(["--config", "configs/scenes.py"]).recipe["student_arch"] == "RetinaNet_ResNet18"
    with pytest.raises(UserError, match=r"--config\.distiller has no meaning here"):
        train_teacher.parse(["--config.distiller=AT"])


COMMANDS = {
    "train_w_kd": (train_w_kd.parse, ["--config", "{recipe}", "--config.distiller_options.weight=2", "--gpu_id", "3"]),
    "deterministic": (train_w_kd.parse, ["--deterministic", "--hosts", "auto"]),
    "train_teacher": (train_teacher.parse, ["--config", "{recipe}", "--arch", "CNN", "--deterministic"]),
    "evaluate": (evaluate.parse, ["--param", "runs/x", "--gpu_id", "0"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_parsing_changes_no_global_and_says_the_same_twice(name, recipe):
    function, argv = COMMANDS[name]
    argv = [word.format(recipe=recipe) for word in argv]
    given, before = list(argv), (dict(os.environ), list(sys.argv), list(sys.path))
    first = function(argv)
    modules = set(sys.modules)
    second = function(argv)
    assert first == second
    assert argv == given
    assert (dict(os.environ), list(sys.argv), list(sys.path)) == before
    assert set(sys.modules) == modules
    assert "recipe" not in sys.modules


def test_what_a_caller_does_to_a_recipe_does_not_reach_the_next_one():
    argv = ["--config.distiller_options.AT.weight=2"]
    train_w_kd.parse(argv).recipe["distiller_options"]["AT"]["weight"] = 3
    assert train_w_kd.parse(argv).recipe == {"distiller_options": {"AT": {"weight": 2}}}


def test_arguments_may_be_any_iterable():
    assert parse(iter(["--seed", "1"]), "").recipe == {"seed": 1}
