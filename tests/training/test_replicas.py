"""Several seeds in one run, several updates in one call, updates that are skipped, and what a composed run logs."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import transfer
from data import device_split
from registry import NonFiniteError, UserError
from training.train import over_seeds, train
from training.update import Update
from transfer import Strategy
from transfer.labels import Labels

pytestmark = pytest.mark.slow

RECIPE = {
    "teacher_param": "tests/teacher",
    "student_arch": "CNN",
    "train_epoch": 1,
    "batch_size": 100,
    "log_every": 4,
    "crop_pad": 1,
    "num_labels": 50,
    "checkpoint_seconds": 1e9,
}


def weights(folder, name="last"):
    return safetensors.numpy.load_file(folder / name / "weights.safetensors")


def rows(folder, kind="train"):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of seed 0 and of seed 1, each by itself."""
    root = tmp_path_factory.mktemp("alone")
    for seed in (0, 1):
        train({**RECIPE, "seed": seed, "train_path": str(root / f"s{seed}")}, quiet=True)
    return root


@pytest.fixture(scope="module")
def turns(tmp_path_factory):
    """Both seeds in one run, taking turns as on a CPU, and its summary."""
    root = tmp_path_factory.mktemp("turns") / "run"
    return root, train({**RECIPE, "seeds": 2, "train_path": str(root)}, quiet=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_replica_that_takes_turns_has_the_bits_of_the_run_alone(seed, turns, alone):
    ours, theirs = turns[0] / f"s{seed}", alone / f"s{seed}"
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    for name in ("last", "best"):
        assert (ours / name / "weights.safetensors").read_bytes() == (
            theirs / name / "weights.safetensors"
        ).read_bytes()
    assert json.loads((ours / "last" / "model.json").read_text())["seed"] == seed


def test_the_summary_is_mean_and_deviation_over_the_seeds(turns, alone):
    folder, summary = turns
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["seeds"] == [0, 1]
    top1 = [json.loads((alone / f"s{seed}" / "summary.json").read_text())["last"]["top1"] for seed in (0, 1)]
    assert top1[0] != top1[1]
    assert summary["last"]["top1"] == {"mean": np.mean(top1), "std": pytest.approx(np.std(top1, ddof=1))}


@pytest.mark.parametrize(
    "options", [{}, {"distiller": "CRD"}, {"transfer": "Mutual"}, {"seeds": 2}, {"teacher_views": 2}]
)
def test_a_run_traces_its_step_and_its_first_state_once(options, tmp_path, monkeypatch):
    """The first update is traced here and not compiled."""
    calls = collections.Counter()

    def count(cls, name):
        original = getattr(cls, name)

        def counted(self, *arguments):
            calls[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(cls, name, counted)

    count(Strategy, "step")
    count(transfer.registry.get(options.get("transfer", "Offline")), "init")

    class Traced(Exception):
        """The first update is."""

    def trace(self, states, totals, splits, count):
        for seed in zip(states, totals, splits, strict=True):
            self.step.trace(*seed)
        raise Traced

    monkeypatch.setattr(Update, "__call__", trace)
    with pytest.raises(Traced):
        train({**RECIPE, **options, "train_path": str(tmp_path / "run")}, quiet=True)
    assert calls == {"step": 1, "init": 1}


def test_stacked_replicas_and_many_updates_a_call_end_as_the_run_alone(tmp_path):
    """Another order of sums: within 1e-5 after 20 updates, at a learning rate at which rounding does not grow."""
    recipe = {**RECIPE, "batch_size": 60, "log_every": 10, "learning_rate": 1e-3}
    train({**recipe, "seed": 1, "train_path": str(tmp_path / "alone")}, quiet=True)
    options = {"seeds": 2, "stack_seeds": "yes", "steps_per_call": "7", "train_path": str(tmp_path / "run")}
    train({**recipe, **options}, quiet=True)
    ours, theirs = rows(tmp_path / "run" / "s1"), rows(tmp_path / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [10, 20]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-5)
    ours, theirs = weights(tmp_path / "run" / "s1"), weights(tmp_path / "alone")
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert any(np.any(weights(tmp_path / "run" / "s0")[name] != value) for name, value in theirs.items())


def test_an_image_that_is_not_finite_is_named_with_its_step(tmp_path, monkeypatch):
    original = device_split.make_batch

    def broken(images, labels, seed, index, *rest):
        batch = original(images, labels, seed, index, *rest)
        bad = (index == 7)[:, None, None, None]
        return batch.replace(image=jax.numpy.where(bad, np.nan, batch.image))

    monkeypatch.setattr(device_split, "make_batch", broken)
    with pytest.raises(NonFiniteError, match=r"in step \d+: the image is not finite for training image 7\."):
        train({**RECIPE, "train_path": str(tmp_path / "run")}, quiet=True)
    assert not (tmp_path / "run" / "checkpoints" / "12").exists()


def test_skipped_updates_are_counted_and_leave_everything_finite_and_resumable(tmp_path, monkeypatch):
    original = device_split.make_batch

    def broken(images, labels, seed, index, view, epoch, *rest):
        batch = original(images, labels, seed, index, view, epoch, *rest)
        bad = jax.numpy.abs(epoch - 0.25) < 0.01  # the fourth update
        return batch.replace(image=jax.numpy.where(bad, np.nan, batch.image))

    monkeypatch.setattr(device_split, "make_batch", broken)
    summary = train({**RECIPE, "on_nan": "skip", "train_path": str(tmp_path / "run")}, quiet=True)
    assert summary["skipped"] == 1
    assert [row["skipped"] for row in rows(tmp_path / "run")] == [1, 1, 1]
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "run").values())
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path / "run"))


def test_a_composed_run_logs_each_terms_share_of_the_gradient(tmp_path, capsys):
    options = {"AT": {"weight": 1e-6}}
    recipe = {**RECIPE, "distiller": "SoftLogits+AT", "distiller_options": options, "train_epoch": 10, "log_every": 20}
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    for row in rows(tmp_path / "run"):
        shares = {name: value for name, value in row.items() if name.startswith("share/")}
        assert set(shares) == {"share/cross_entropy", "share/SoftLogits", "share/AT"}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert shares["share/AT"] < 0.01 < shares["share/SoftLogits"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "of the gradient" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("Warning: AT has had")


def test_deviation_over_seeds_is_the_sample_deviation():
    rows = [{"last": {"top1": value}, "best": {"top1": value}} for value in (1.0, 2.0, 6.0)]
    found = over_seeds(rows)["last"]["top1"]
    assert found == {"mean": 3.0, "std": pytest.approx(np.sqrt(7.0))}


def test_what_a_strategy_freezes_it_has_to_name(tmp_path, monkeypatch):
    init = Labels.init
    extra = {"extra": jnp.ones(3)}
    monkeypatch.setattr(Labels, "init", lambda *arguments: init(*arguments).replace(frozen=extra))
    recipe = {"transfer": "Labels", "student_arch": "CNN", "train_path": str(tmp_path / "run")}
    with pytest.raises(UserError, match=r"Labels\.init freezes more than its `frozen` has: extra"):
        train(recipe, quiet=True)
    assert not (tmp_path / "run").exists()
