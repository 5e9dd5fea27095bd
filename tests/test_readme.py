"""What README.md promises runs as it stands there, and its tables have what the registries have."""

import re
import sys

import jax
import numpy as np
import pages
import pytest

import distiller
import models
import transfer
from training.train import train

TEXT = pages.PAGES["README.md"]


def code(beginning: str) -> str:
    """The Python block that begins so."""
    (block,) = re.findall(rf"```python\n({beginning}.*?)```", TEXT, re.DOTALL)
    return block


@pytest.mark.slow
def test_method_of_the_readme_trains(tmp_path, monkeypatch):
    assert re.search(r'`"Cosine": "distiller\.cosine:Cosine",`', TEXT)
    (tmp_path / "cosine_of_the_readme.py").write_text(code("import flax"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(distiller.registry.entries, "Cosine", "cosine_of_the_readme:Cosine")
    small = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 1, "batch_size": 100}
    summary = train({**small, "distiller": "Cosine", "train_path": str(tmp_path / "run")}, quiet=True)
    assert summary["last"]["top1"] > 30
    assert "Cosine" in (tmp_path / "run" / "metrics.jsonl").read_text()
    sys.modules.pop("cosine_of_the_readme")


@pytest.mark.slow
def test_the_library_is_used_in_twelve_lines_that_run():
    block = code("import jax")
    assert len([line for line in block.splitlines() if line.strip()]) == 12
    names = {}
    exec(block, names)
    step, gradients, params = names["step"], names["gradients"], names["variables"]["params"]
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in jax.tree.leaves(gradients))
    after, _ = step(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients))
    assert 0 < after < names["value"]


def test_the_readme_is_short_and_names_no_commit():
    assert len(TEXT.splitlines()) <= 200
    assert not [word for word in re.findall(r"\b[0-9a-f]{7,40}\b", TEXT) if not word.isdigit()]
    assert re.search(r"<!-- demo table -->\n\|.*\|\n<!-- end -->", TEXT, re.DOTALL)


def test_tables_and_counts_are_those_of_the_registries():
    methods = [name for row in pages.rows("README.md", "| what is compared ") for name in row[1].split(", ")]
    assert sorted(name.partition(" ")[0] for name in methods) == sorted(distiller.names())
    strategies = [name for row in pages.rows("README.md", "| who teaches ") for name in row[1].split(", ")]
    assert sorted(strategies) == sorted(transfer.names())
    counts = re.findall(r"^- (\d+) (methods|strategies|networks)", TEXT, re.MULTILINE)
    every = {"methods": distiller, "strategies": transfer, "networks": models}
    assert {kind: int(count) for count, kind in counts} == {kind: len(room.names()) for kind, room in every.items()}


def test_a_student_is_used_in_the_lines_of_the_readme(capsys):
    names = {}
    exec(code("import data, deploy"), names)
    assert names["probabilities"].shape == (8, 10)
    truth = names["data"].load("Digits").test.labels[:8]
    assert capsys.readouterr().out.split("'")[1::2] == [str(label) for label in truth]
