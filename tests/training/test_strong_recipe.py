"""What strong recipes add, all at once, in whole runs: exact under a stop, and with seeds side by side."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs.resolve import resolve
from registry import UserError
from training.builder import Builder
from training.train import train

pytestmark = pytest.mark.slow

RECIPE = {
    "student_arch": "dropping_network:Dropping",
    "distiller": "SoftLogits",
    "teacher_param": "tests/teacher",
    "train_epoch": 2,
    "batch_size": 200,
    "log_every": 3,
    "checkpoint_seconds": 1e9,
    "label_smoothing": 0.1,
    "trivialaugment": True,
    "random_erasing": 0.25,
    "ema_weights": 0.9,
    "accumulate": 2,
    "optimizer": "muon",
    "learning_rate": 0.005,
}
STEPS = 12


def weights(folder, name="last"):
    return safetensors.numpy.load_file(folder / name / "weights.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train({**RECIPE, "train_path": str(folder)}, quiet=True)
    return folder


def test_an_interrupted_run_draws_and_averages_to_the_same_bits(finished, tmp_path, stopped_at):
    recipe = {**RECIPE, "train_path": str(tmp_path / "run")}
    with stopped_at(8):
        train(recipe, quiet=True)
    train(recipe, quiet=True)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    for name in ("last", "best"):
        found, expected = weights(tmp_path / "run", name), weights(finished, name)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_it_learns(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def replica(folder, **changes):
    """(the update's functions, one replica in its first state)."""
    parts = Builder(resolve({**RECIPE, **changes, "train_path": str(folder)})[0], say=lambda text: None)
    shared = parts.shared(folder)
    return shared, parts.replicas(shared)


def test_stacked_seeds_draw_what_each_draws_alone(tmp_path):
    smooth = {"optimizer": "sgd", "seeds": 2}  # Adam's first update is a sign, which rounding can turn
    shared, seeds = replica(tmp_path, **smooth, stack_seeds="yes")
    alone, others = replica(tmp_path, **smooth, stack_seeds="no")
    assert shared.update.stacked > alone.update.stacked
    states = []
    for update, members in ((shared.update, seeds), (alone.update, others)):
        parts = [list(part) for part in zip(*[(r.state, r.totals, r.split) for r in members], strict=True)]
        states.append(update(*parts)[0])
    for mine, theirs in zip(*states, strict=True):
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_skipped_update_leaves_the_average_as_it_was(tmp_path):
    shared, (own,) = replica(tmp_path, on_nan="skip")
    before = jax.device_get(own.state)
    bad = {**before.frozen, "teacher": jax.tree.map(lambda x: np.full_like(x, np.nan), before.frozen["teacher"])}
    damaged = own.state.replace(frozen=shared.devices.place(bad))
    (state,), (totals,) = shared.update([damaged], [own.totals], [own.split])
    assert int(totals.skipped) == 1
    assert int(state.step) == 1
    for a, b in zip(jax.tree.leaves(state.extra), jax.tree.leaves(before.extra), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_kept_is_the_average_and_not_what_learns(tmp_path):
    shared, (own,) = replica(tmp_path)
    plain, (other,) = replica(tmp_path, ema_weights=0.0)
    for each, member in ((shared, own), (plain, other)):
        for _ in range(2):
            (member.state,), (member.totals,) = each.update([member.state], [member.totals], [member.split])
    for a, b in zip(jax.tree.leaves(own.state.params), jax.tree.leaves(other.state.params), strict=True):
        np.testing.assert_array_equal(a, b)  # the average teaches nobody
    kept, learns = shared.strategy.student_variables(own.state), plain.strategy.student_variables(other.state)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), kept, learns)
    assert min(jax.tree.leaves(moved["batch_stats"])) > 0
    assert moved["params"]["Dense_0"]["kernel"] > 0


def test_parts_must_divide_over_the_devices(monkeypatch, tmp_path):
    monkeypatch.setattr("training.devices.Devices.count", property(lambda self: 8))
    with pytest.raises(UserError, match="--batch_size 200 in 2 parts does not divide by the 8 devices"):
        replica(tmp_path)
