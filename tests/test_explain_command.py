"""`explain.py` and `evaluate.py --explain` as a user types them."""

import contextlib
import importlib.util
import io
import json
import pathlib
import runpy
import shutil
import subprocess
import sys
import types

import pytest
from absl import flags

import pretrained

ROOT = pathlib.Path(__file__).parent.parent
TEACHER = "tests/teacher"


@pytest.fixture
def typed(monkeypatch):
    """Run a command line in this process: (script, *arguments) -> its `returncode`, `stdout` and `stderr`."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        before, out, err = set(flags.FLAGS), io.StringIO(), io.StringIO()
        code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            finally:
                flags.FLAGS.unparse_flags()
                for name in set(flags.FLAGS) - before:
                    delattr(flags.FLAGS, name)
        return types.SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

    monkeypatch.setattr("models.xla_cpu.process.tune", lambda: None)  # a setting of the process
    return run


@pytest.mark.slow
def test_panel_is_drawn(tmp_path):
    """In a process of its own: nothing on stderr, and the package `explain` is found beside `explain.py`."""
    arguments = ["--param", TEACHER, "--teacher_param", TEACHER, "--images", "2", "--out", tmp_path / "panel.svg"]
    call = [sys.executable, "explain.py", *map(str, arguments), "--map", "CAM"]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == f"Written to {tmp_path / 'panel.svg'}\n"
    picture = (tmp_path / "panel.svg").read_text()
    for text in ("CAM of the class that the teacher predicts, Digits test", "teacher CNN", "true: "):
        assert text in picture


@pytest.mark.slow
def test_explanations_are_measured_and_written_beside_the_evaluation(typed, tmp_path):
    shutil.copytree(ROOT / TEACHER, tmp_path / "weights")
    arguments = ["--param", tmp_path / "weights", "--teacher_param", TEACHER, "--explain", "GradCAM"]
    result = typed("evaluate.py", *arguments, "--explain_images", "20")
    assert result.returncode == 0, result.stderr
    teacher = f"CNN-{pretrained.load(ROOT / TEACHER).sha256[:8]}"
    usual = json.loads((tmp_path / "weights" / f"evaluation-Digits-against-{teacher}.json").read_text())
    assert usual["images"] == 597
    found = json.loads((tmp_path / "weights" / f"evaluation-Digits-against-{teacher}-explained.json").read_text())
    assert list(found["maps"]) == ["GradCAM"]
    assert found["images"] == 20
    for values in found["maps"].values():
        assert values["similarity"]["cosine"] == pytest.approx(1)  # to itself
        for key in ("positive_predicted", "negative_target", "deletion", "insertion"):
            assert f"{values[key]:.2f}" in result.stdout


MISTAKES = {
    "nothing": ("explain.py", [], ["--param and --out"]),
    "suffix": ("explain.py", ["--param", TEACHER, "--out", "a.jpg"], [".png or .svg", "a.jpg"]),
    "map": ("explain.py", ["--param", TEACHER, "--out", "{tmp}/a.png", "--map", "GardCAM"], ["Did you mean 'GradCAM'"]),
    "kind": ("explain.py", ["--param", TEACHER, "--out", "{tmp}/a.png", "--kind", "pannel"], ["'panel'"]),
    "weights": ("explain.py", ["--param", "nowhere", "--out", "{tmp}/a.png"], ["nowhere"]),
    "epochs": ("explain.py", ["--param", TEACHER, "--out", "{tmp}/a.png", "--kind", "training"], ["keep_epochs=1"]),
    "flag": ("explain.py", ["--maps", "CAM"], ["Did you mean '--map'"]),
    "measured map": ("evaluate.py", ["--param", TEACHER, "--explain", "GradCAMM"], ["'GradCAMM'", "'GradCAM'"]),
    "two": ("evaluate.py", ["--param", f"{TEACHER},{TEACHER}"], ["--explain"]),
    "baseline": ("evaluate.py", ["--param", TEACHER, "--explain", "CAM", "--baseline", TEACHER], ["--teacher_param"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_a_message_of_two_lines_and_nothing_is_written(mistake, typed, tmp_path):
    script, arguments, expected = MISTAKES[mistake]
    result = typed(script, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) <= 2, result.stderr
    for text in expected:
        assert text in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_is_one_screen_and_names_its_flags(typed):
    result = typed("explain.py", "--help")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) <= 45
    for flag in ("--param", "--teacher_param", "--dataset", "--map", "--images", "--out", "--kind"):
        assert flag in result.stdout


def test_the_package_is_found_before_the_command_line_of_the_same_name():
    assert pathlib.Path(importlib.util.find_spec("explain").origin) == ROOT / "explain" / "__init__.py"
