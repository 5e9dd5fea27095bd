"""docs/add_a_method.md, followed in this process: its method is registered, held to the contract, and trains."""

import importlib.util
import inspect
import pathlib
import re
import sys

import pytest

import distiller
import train_w_kd
from configs import cifar100
from configs.resolve import merge
from training.train import train

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "add_a_method.md").read_text()
METHOD, LINE, CONTRACT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^python (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
SHORT = {"teacher_param": "tests/teacher", "student_arch": "CNN", "batch_size": 400, "log_every": 1}


def load(path, name):
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's file and line, as if they were in distiller/."""
    name, module, attribute = re.fullmatch(r'\s*"(\w+)": "([\w.]+):(\w+)",\s*', LINE).groups()
    (tmp_path / "direction.py").write_text(METHOD)
    monkeypatch.setitem(sys.modules, module, load(tmp_path / "direction.py", module))
    monkeypatch.setitem(distiller.registry.entries, name, f"{module}:{attribute}")
    return name


@pytest.fixture
def contract(added, tmp_path, monkeypatch):
    """tests/distiller/test_contract.py as a module, with the page's line (True) or without it (False)."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "distiller")
    source = (ROOT / "tests" / "distiller" / "test_contract.py").read_text()
    assert source.count("\nNAMES = ") == 1

    def build(with_line):
        path = tmp_path / f"contract_{with_line}.py"
        path.write_text(source.replace("\nNAMES = ", f"\n{CONTRACT}\nNAMES = ") if with_line else source)
        return load(path, path.stem)

    return build


def asked(module, name):
    """The contract's questions that are asked of the method `name`."""
    tests = [test for key, test in vars(module).items() if key.startswith("test_") and inspect.isfunction(test)]
    marks = [(test, mark.args) for test in tests for mark in getattr(test, "pytestmark", ())]
    return [test for test, args in marks if args and args[0] == "name" and name in args[1]]


def test_the_page_has_its_commands():
    assert len([command for command in COMMANDS if "train_w_kd.py" in command]) == 2
    assert len([command for command in COMMANDS if "pytest" in command]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if "train_w_kd.py" in command])
def test_the_method_trains_by_the_pages_commands(command, added, tmp_path):
    given = train_w_kd.parse(command.split()[2:])
    train({**given.recipe, **SHORT, "train_path": str(tmp_path / "run")}, quiet=True, typed=given.typed)
    assert f'"{added}"' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_the_method_keeps_the_contract(added, contract):
    tests = asked(contract(True), added)
    assert len(tests) > 8
    for test in tests:
        test(added)


def test_a_method_without_its_contract_line_is_asked_for_it(added, contract):
    with pytest.raises(AssertionError, match=f"add a line for {added} to WHERE_EQUAL"):
        contract(False).test_the_loss_where_student_equals_teacher_is_known(added)


def test_the_recipe_of_the_page_is_one(added):
    assert f"configs/cifar100.py:{added}" in PAGE
    assert merge(cifar100.get_config(added))["distiller"] == added
