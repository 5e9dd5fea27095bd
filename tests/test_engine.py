"""The engine in one process: what a run leaves behind, and that stopping it anywhere changes nothing."""

import json
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import data
import pretrained
from configs.resolve import plain, resolve
from registry import NonFiniteError, UserError
from signals import Interrupted
from studies import evaluation
from training import run_folder
from training.builder import Builder
from training.checkpoint import Checkpoints
from training.replica import Replica
from training.train import train

RECIPE = {
    "teacher_param": "tests/teacher",
    "student_arch": "CNN",
    "train_epoch": 3,
    "batch_size": 100,
    "log_every": 5,
    "crop_pad": 1,
    "checkpoint_seconds": 1e9,
}
STEPS = 36  # 1,200 images in batches of 100, 3 epochs


def weights(folder, name):
    return safetensors.numpy.load_file(folder / name / "weights.safetensors")


def rows(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def last_checkpoint(folder):
    """Every array of the newest checkpoint, by path, as Orbax wrote it."""
    checkpoints = Checkpoints(folder)
    step = checkpoints.steps()[-1]
    arrays = checkpoints.read(step)
    checkpoints.close()
    return step, arrays


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of SoftLogits."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    summary = train({**RECIPE, "train_path": str(folder)}, quiet=True)
    return folder, summary


def test_run_folder_holds_what_the_design_says(finished):
    folder, summary = finished
    for name in ("config.json", "env.json", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints"):
        assert (folder / name).exists()
    assert list((folder / "tensorboard").glob("events.*"))
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["steps"] == STEPS
    assert summary["parameters"] == 26394
    assert [row["step"] for row in rows(folder, "train")] == [*range(5, STEPS, 5), STEPS]
    assert [row["epoch"] for row in rows(folder, "test")] == [1, 2, 3]
    environment = json.loads((folder / "env.json").read_text())
    assert environment["versions"]["jax"]
    config = json.loads((folder / "config.json").read_text())
    resolved = json.loads(json.dumps(plain(resolve({**RECIPE, "train_path": str(folder)})[0])))
    assert resolved == {key: config[key] for key in resolved}
    assert config.keys() - resolved.keys() == {"data", "teacher_sha256", "init_sha256"}


def test_loss_is_the_sum_of_its_terms_in_every_row(finished):
    for row in rows(finished[0], "train"):
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["SoftLogits"], rel=1e-5)
        assert 0 <= row["top1"] <= 100


def test_training_learns(finished):
    losses = [row["loss"] for row in rows(finished[0], "train")]
    assert losses[-1] < losses[0] / 2
    assert finished[1]["last"]["top1"] > 60


def test_saved_weights_measure_as_the_summary_says(finished):
    folder, summary = finished
    dataset = data.load("Digits")
    for name in ("last", "best"):
        measured = evaluation.measure(str(folder / name), dataset, RECIPE["teacher_param"])
        for key, value in measured.items():
            assert value == pytest.approx(summary[name][key], abs=1e-6)
        assert pretrained.load(folder / name).info["test_top1"] == summary[name]["top1"]
    assert summary["best"]["top1"] == max(row["top1"] for row in rows(folder, "test"))


def test_finished_run_is_returned_and_not_repeated(finished):
    folder, summary = finished
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert train({**RECIPE, "train_path": str(folder)}, quiet=True) == summary
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(7,), *(pytest.param(x, marks=SLOW) for x in ((1,), (12, 5), (35,)))], ids=str)
def test_interrupted_run_ends_with_the_same_bits(finished, steps, tmp_path, stopped_at):
    """Mid-epoch, at an epoch's end, twice, and before the last step."""
    whole, folder = finished[0], tmp_path / "run"
    recipe = {**RECIPE, "train_path": str(folder)}
    done = 0
    for step in steps:
        with stopped_at(step) as raised:
            train(recipe, quiet=True)
        done += step
        assert raised.value.exit_code == 75
        assert last_checkpoint(folder)[0] == done
        assert not (folder / "summary.json").exists()
    train(recipe, quiet=True)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    step, arrays = last_checkpoint(folder)
    expected_step, expected = last_checkpoint(whole)
    assert step == expected_step == STEPS
    assert arrays.keys() == expected.keys()
    assert any("opt_state" in name for name in arrays)
    assert any("batch_stats" in name for name in arrays)
    for name, value in expected.items():
        assert np.array_equal(arrays[name], value), name
    for name in ("last", "best"):
        for key, value in weights(whole, name).items():
            assert np.array_equal(weights(folder, name)[key], value), key


@pytest.mark.slow
def test_another_seed_gives_other_bits(finished, tmp_path):
    """The control of the test above: equality there is not for lack of randomness."""
    train({**RECIPE, "seed": 1, "train_path": str(tmp_path / "run")}, quiet=True)
    ours, theirs = weights(finished[0], "last"), weights(tmp_path / "run", "last")
    assert not any(np.array_equal(ours[name], theirs[name]) for name in ours if name.endswith("kernel"))


@pytest.mark.slow
def test_only_the_two_latest_checkpoints_are_kept(tmp_path):
    train({**RECIPE, "train_epoch": 1, "checkpoint_seconds": 0.0, "train_path": str(tmp_path / "run")}, quiet=True)
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [11, 12]


def first(folder, **changes):
    """The only replica of a run, in its first state; nothing is trained."""
    parts = Builder(resolve({**RECIPE, **changes, "train_path": str(folder)})[0], say=lambda text: None)
    (replica,) = parts.replicas(parts.shared(folder))
    return replica


def test_labels_alone_see_only_the_labelled_images(tmp_path):
    labels, soft = (first(tmp_path, num_labels=50, transfer=name) for name in ("Labels", "Offline"))
    seen = [np.asarray(replica.split.index[1:]) for replica in (labels, soft)]
    assert seen[0].size == seen[1].size == len(np.unique(seen[1])) == 1200
    labelled = np.unique(seen[0])
    assert len(labelled) == 50
    counts = np.bincount(data.load("Digits").train.labels[labelled], minlength=10)
    assert set(counts) == {5}
    for replica in (labels, soft):
        assert np.array_equal(np.flatnonzero(np.asarray(replica.split.labels) >= 0), labelled)


def test_equal_seeds_start_equal_students(tmp_path):
    """So that a table's rows are paired: the baseline and the student start with the same bits."""
    soft, labels = (jax.device_get(first(tmp_path, transfer=name).best) for name in ("Offline", "Labels"))
    assert jax.tree.structure(soft) == jax.tree.structure(labels)
    for ours, theirs in zip(jax.tree.leaves(soft), jax.tree.leaves(labels), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1e9, 0.0], ids=["log", "save"])
def test_non_finite_numbers_stop_the_run_and_are_never_saved(seconds, tmp_path):
    recipe = {**RECIPE, "learning_rate": 1e6, "checkpoint_seconds": seconds, "train_path": str(tmp_path / "run")}
    with pytest.raises(
        NonFiniteError, match=r"(cross_entropy|SoftLogits|gradient_norm).* non-finite in step \d+\."
    ) as at:
        train(recipe, quiet=True)
    assert at.value.exit_code == 4
    assert not (tmp_path / "run" / "last").exists()
    if not seconds:
        assert all(np.isfinite(value).all() for value in last_checkpoint(tmp_path / "run")[1].values())


def test_second_writer_is_refused_while_the_first_holds_the_folder(tmp_path):
    def enter():
        with run_folder.open_run(tmp_path / "run", {"data": "", "teacher_sha256": None}):
            pass

    with (
        run_folder.open_run(tmp_path / "run", {"data": "", "teacher_sha256": None}),
        pytest.raises(UserError, match="written by process"),
    ):
        enter()
    enter()  # the first has gone


@SLOW
def test_bfloat16_run_keeps_weights_in_float32(tmp_path):
    train({**RECIPE, "train_epoch": 1, "dtype": "bfloat16", "train_path": str(tmp_path / "run")}, quiet=True)
    assert {value.dtype for value in weights(tmp_path / "run", "last").values()} == {np.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "step"), [(2, 24), pytest.param(3, 36, marks=SLOW)])
def test_signal_during_an_evaluation_ends_it_and_the_next_process_makes_it(
    number, step, finished, tmp_path, monkeypatch
):
    """The second of three evaluations, and the last one, after which nothing is trained any more."""
    recipe = {**RECIPE, "train_path": str(tmp_path / "run")}
    answer, calls = Replica.answer, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGTERM)
        return answer(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "answer", interrupted)
        with pytest.raises(Interrupted):
            train(recipe, quiet=True)
    assert last_checkpoint(tmp_path / "run")[0] == step
    assert [row["epoch"] for row in rows(tmp_path / "run", "test")] == list(range(1, number))
    train(recipe, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    for key, value in weights(finished[0], "last").items():
        assert np.array_equal(weights(tmp_path / "run", "last")[key], value), key


def test_other_images_are_another_run(tmp_path, monkeypatch):
    class Opened(Exception):
        """The folder is this run's."""

    def opened(*_):
        raise Opened

    for folder, shade in (("a", 40), ("b", 90)):
        for split in ("train", "test"):
            for number, name in enumerate(("x", "y")):
                place = tmp_path / folder / split / name
                place.mkdir(parents=True)
                for i in range(4):
                    Image.new("RGB", (8, 8), (shade, 50 * number, 9 * i)).save(place / f"{i}.png")
    recipe = {"student_arch": "CNN", "transfer": "Labels", "dataset": "ImageFolder", "image_size": 8}
    recipe |= {"batch_size": 4, "train_epoch": 1, "train_path": str(tmp_path / "run")}
    monkeypatch.setattr(Builder, "shared", opened)  # what comes after the folder is opened
    with pytest.raises(Opened):
        train({**recipe, "data_dir": str(tmp_path / "a")}, quiet=True)
    (tmp_path / "a").rename(tmp_path / "moved")
    with pytest.raises(Opened):  # the same images elsewhere: the same run
        train({**recipe, "data_dir": str(tmp_path / "moved")}, quiet=True)
    with pytest.raises(UserError, match="data: "):
        train({**recipe, "data_dir": str(tmp_path / "b")}, quiet=True)
