"""Strategies that carry more than weights through a run: interrupted anywhere, they end with the same bits."""

import json

import numpy as np
import pytest
import safetensors.numpy

import pretrained
from training.train import train

RECIPE = {"student_arch": "CNN", "batch_size": 100, "log_every": 6, "crop_pad": 1, "checkpoint_seconds": 1e9}
RUNS = {
    "BornAgain": {"train_epoch": 1, "transfer_options": {"generations": 2}},
    "PSKD": {"train_epoch": 2},
}
STEPS = 12  # an epoch of 1,200 images


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RUNS)
def finished(request, tmp_path_factory):
    """(recipe, folder, summary) of an uninterrupted run of 24 steps."""
    recipe = {**RECIPE, **RUNS[request.param], "transfer": request.param}
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return recipe, folder, train({**recipe, "train_path": str(folder)}, quiet=True)


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


def weights(folder):
    return {path.parent.name: safetensors.numpy.load_file(path) for path in folder.glob("*/weights.safetensors")}


def test_interrupted_before_at_and_after_the_second_epoch_it_ends_with_the_same_bits(finished, tmp_path, stopped_at):
    """For BornAgain the second epoch is the second generation, for PSKD the first that reads its memory."""
    recipe, whole, summary = finished
    folder = tmp_path / "run"
    for steps in (STEPS - 2, 2, 3):
        with stopped_at(steps):
            train({**recipe, "train_path": str(folder)}, quiet=True)
    assert train({**recipe, "train_path": str(folder)}, quiet=True)["last"] == summary["last"]
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    found, expected = weights(folder), weights(whole)
    assert found.keys() == expected.keys() >= {"last", "best"}
    for name, arrays in expected.items():
        for key, value in arrays.items():
            assert np.array_equal(found[name][key], value), (name, key)


@pytest.mark.parametrize("finished", ["BornAgain"], indirect=True)
def test_a_run_of_generations_has_the_epochs_of_all_and_keeps_each(finished):
    _, folder, summary = finished
    assert summary["steps"] == 2 * STEPS
    assert summary["best"]["epoch"] == 2  # the last generation's only test, be it worse than the first's or not
    assert same(weights(folder)["best"], weights(folder)["last"])
    assert {"generation1/top1", "generations/top1"} < summary["last"].keys()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, second = (row for row in rows if row["kind"] == "test")
    assert second["generation1/top1"] == first["top1"] == pretrained.load(folder / "generation1").info["test_top1"]
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert [row["SoftLogits"] == 0 for row in train_rows] == [True, True, False, False]


@pytest.mark.parametrize("finished", ["BornAgain"], indirect=True)
def test_the_first_generation_is_a_run_on_labels_alone(finished, tmp_path):
    recipe, whole, _ = finished
    labels = {**recipe, "transfer": "Labels", "transfer_options": {}, "train_path": str(tmp_path / "labels")}
    train(labels, quiet=True)
    found, expected = weights(whole)["generation1"], weights(tmp_path / "labels")["last"]
    for key, value in expected.items():
        assert np.array_equal(found[key], value), key


@pytest.mark.parametrize("finished", ["PSKD"], indirect=True)
def test_the_strategy_knows_how_long_the_training_is(finished):
    """In the first of two epochs the share of the past is 0.8 / 2, and the label stands for the past."""
    rows = [json.loads(line) for line in (finished[1] / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["PSKD"] == pytest.approx(rows[0]["cross_entropy"] * 0.4 / 0.6, rel=1e-4)
