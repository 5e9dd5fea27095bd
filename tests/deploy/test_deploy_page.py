"""docs/deploy.md: its commands and its Python code run as they stand there."""

import importlib
import importlib.util
import re
import shutil
import subprocess

import pages
import pytest
from PIL import Image

import data
import evaluate
from configs import command
from deploy import litert_format, targets

PAGE = pages.PAGES["deploy.md"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `runs/soft`, which is the tests' teacher, and `photos`."""
    shutil.copytree(pages.ROOT / "tests" / "teacher", tmp_path / "runs" / "soft" / "last")
    (tmp_path / "photos").mkdir()
    for name, image in zip(("cat", "dog"), data.load("Digits").test.images, strict=False):
        Image.fromarray(image[..., 0]).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(targets, "latency", lambda *_: 1.0)
    monkeypatch.setattr(command, "prepare", lambda given: None)
    return tmp_path


@pytest.mark.slow
def test_the_page_runs_from_the_top_to_the_end(folder, capsys):
    ran, absent = [], [] if litert_format.is_ready() else ["litert"]
    absent += [] if importlib.util.find_spec("torch") else ["torch"]
    for words in pages.commands("deploy.md"):
        if "runs/soft" not in words or "--push" in words or not set(words).isdisjoint(absent):
            continue
        importlib.import_module(words[1]).main(words[2:])
        ran.append(words[1])
    evaluate.main(next(words[1:] for words in pages.commands("deploy.md") if "soft.onnx" in words[1:3]))
    assert ran.count("deploy.predict") == 3
    assert ran.count("deploy.export") >= 3
    assert ran.count("deploy.push") == 1
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        if "runs/scenes" in block:
            continue  # tests/deploy/test_deployed_detectors.py runs it
        if "ai_edge_litert" not in block:
            if "torch" not in absent or "import torch" not in block:
                exec(block, {})
        elif "litert" not in absent:
            subprocess.run([litert_format.environment(), "-c", block], check=True, cwd=folder, capture_output=True)
    out = capsys.readouterr().out
    assert "photos/cat.png" in out
    assert "CNN from soft.onnx on Digits test (597 images), float32" in out
    assert {path.name for path in folder.iterdir()} >= {"photos.csv", "soft.onnx", "soft.stablehlo", "soft.onnx.json"}


def test_the_report_of_the_page_is_a_report():
    shown = re.search(r"<!-- report -->\n```text\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    assert [line.split()[0] for line in shown] == ["CNN", "takes", "returns", "latency"]
