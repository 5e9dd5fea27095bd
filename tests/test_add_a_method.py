"""docs/add_a_method.md, followed to the letter in a copy of the project."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "add_a_method.md").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with the page's files and lines in it; what the page leaves alone is linked."""
    copy = tmp_path_factory.mktemp("copy")
    for path in ROOT.iterdir():
        if path.name in ("distiller", "configs", "tests"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, copy)  # a linked script would import from where it really lies
        elif not path.name.startswith(".") and path.name != "runs":
            (copy / path.name).symlink_to(path)
    method, line, contract = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (copy / "distiller" / "direction.py").write_text(method)
    places = [
        ("distiller/__init__.py", "    },\n    elsewhere={\n", line),
        ("tests/distiller/test_contract.py", "NAMES = ", contract),
    ]
    for file, before, new in places:
        text = (copy / file).read_text()
        assert text.count(before) == 1
        (copy / file).write_text(text.replace(before, new + before))
    return copy


def follow(project, command):
    words = [sys.executable, *command.split()[1:]]
    return subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=600)


COMMANDS = re.findall(r"^python (?:.*\\\n)*.*$", PAGE, re.MULTILINE)


def test_the_page_has_its_commands():
    assert len([command for command in COMMANDS if "train_w_kd.py" in command]) == 2
    assert len([command for command in COMMANDS if "pytest" in command]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_works(project, command):
    result = follow(project, command)
    assert result.returncode == 0, result.stdout + result.stderr
    if "train_w_kd.py" in command:
        folder = project / re.search(r"--train_path (\S+)", command)[1]
        assert '"Direction"' in (folder / "metrics.jsonl").read_text()
    else:
        assert re.search(r"Direction|passed|^\.+ ", result.stdout)
        assert "no tests ran" not in result.stdout


@pytest.mark.slow
def test_a_method_without_its_contract_line_is_asked_for_it(project):
    path = project / "tests" / "distiller" / "test_contract.py"
    whole = path.read_text()
    path.write_text(whole.replace('WHERE_EQUAL["Direction"] = 0.0\n', ""))
    test = "test_the_loss_where_student_equals_teacher_is_known[Direction]"
    try:
        result = follow(project, f"python -m pytest {path.relative_to(project)}::{test}")
    finally:
        path.write_text(whole)
    assert result.returncode == 1
    assert "add a line for Direction to WHERE_EQUAL" in result.stdout
