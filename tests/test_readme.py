"""What README.md promises in code runs as it stands there."""

import pathlib
import re
import sys

import distiller
from training.run import train

ROOT = pathlib.Path(__file__).parent.parent


def test_method_of_the_readme_trains(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?class Cosine.*?)```", text, re.DOTALL)[1]
    entry = re.search(r'`"Cosine": "distiller\.cosine:Cosine",`', text)
    assert entry
    (tmp_path / "cosine_of_the_readme.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(distiller.registry.entries, "Cosine", "cosine_of_the_readme:Cosine")
    recipe = {"distiller": "Cosine", "train_epoch": 2, "batch_size": 100, "train_path": str(tmp_path / "run")}
    summary = train(recipe, quiet=True)
    assert summary["last"]["top1"] > 30
    assert "Cosine" in (tmp_path / "run" / "metrics.jsonl").read_text()
    sys.modules.pop("cosine_of_the_readme")


def test_files_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(
        r"`((?:configs|distiller|transfer|models|data|training|pretrained|benchmarks|docs|tests)/[\w./]*)`", text
    ):
        assert (ROOT / name).exists() or name == "distiller/cosine.py", name
    for link in re.findall(r"\]\(([\w/.]+)\)", text):
        assert (ROOT / link).exists(), link
