"""A run with a network of `flax.nnx`, the one of docs/models.md: it learns, teaches, and is measured from its files."""

import sys

import pages
import pytest

import data
import models
import pretrained
from studies import evaluation
from training.train import train

pytestmark = pytest.mark.slow

ARCH = "my_nnx:MyNNX"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder with the page's network in `my_nnx.py`."""
    (tmp_path / "my_nnx.py").write_text(pages.code("models.md", "class MyNNX"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_nnx", None)


@pytest.mark.slow
def test_the_network_of_the_page_learns_teaches_and_is_measured(own):
    run = {"student_arch": ARCH, "teacher_param": "tests/teacher", "train_epoch": 4, "batch_size": 100}
    run |= {"distiller": "SoftLogits+AT", "distiller_options": {"AT": {"weight": 10.0}}}
    summary = train({**run, "train_path": str(own / "run")}, quiet=True)
    assert summary["last"]["top1"] > 40  # chance is 10
    weights = pretrained.load(own / "run")
    assert weights.info["arch"] == ARCH
    assert pretrained.check(weights, models.create(ARCH, 10))["params"].keys() == weights.variables["params"].keys()
    measured = evaluation.measure(str(own / "run"), data.load("Digits"), arch=ARCH)
    assert measured["top1"] == pytest.approx(summary["last"]["top1"])
    again = {**run, "student_arch": "CNN", "teacher_param": str(own / "run"), "teacher_arch": ARCH, "train_epoch": 1}
    again |= {"distiller": "SoftLogits", "distiller_options": {}}
    train({**again, "train_path": str(own / "next")}, quiet=True)
