"""A run whose teachers' features are standardised: resumed to the same bits, and refused before anything is written."""

import json

import pytest

from registry import UserError
from training.train import train

pytestmark = pytest.mark.slow

RECIPE = {
    "teacher_param": "tests/teacher,tests/teacher",
    "student_arch": "CNN",
    "distiller": "PKT",
    "transfer_options": {"standardise": "phi_s"},
    "train_epoch": 2,
    "batch_size": 200,
    "log_every": 1,
    "checkpoint_seconds": 1e9,
}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train({**RECIPE, "train_path": str(folder)}, quiet=True)
    return folder


def test_an_interrupted_run_ends_with_the_same_bits(finished, tmp_path, stopped_at):
    recipe = {**RECIPE, "train_path": str(tmp_path / "run")}
    with stopped_at(7):
        train(recipe, quiet=True)
    train(recipe, quiet=True)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_the_features_are_others_than_without(finished, tmp_path):
    own = {**RECIPE, "transfer_options": {"standardise": "none"}, "train_epoch": 1}
    train({**own, "train_path": str(tmp_path / "run")}, quiet=True)
    ours, theirs = rows(finished)[0], rows(tmp_path / "run")[0]
    assert ours["cross_entropy"] == theirs["cross_entropy"]  # the same student and images
    assert abs(ours["PKT"] - theirs["PKT"]) > 1e-3 * theirs["PKT"]
    assert ours["PKT"] > 0


@pytest.mark.slow
def test_seeds_side_by_side_are_those_one_by_one(finished, tmp_path):
    own = {**RECIPE, "seeds": 2, "stack_seeds": "yes", "train_path": str(tmp_path / "run")}
    train(own, quiet=True)
    for ours, theirs in zip(rows(tmp_path / "run/s0"), rows(finished), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.get("PKT") == (pytest.approx(theirs["PKT"], rel=1e-2) if "PKT" in theirs else None)


def test_a_method_without_features_is_refused(tmp_path):
    own = {**RECIPE, "distiller": "SoftLogits", "train_path": str(tmp_path / "run")}
    with pytest.raises(UserError, match="'standardise' 'phi_s' has no effect: SoftLogits reads no feature"):
        train(own, quiet=True)
    assert not (tmp_path / "run").exists()
