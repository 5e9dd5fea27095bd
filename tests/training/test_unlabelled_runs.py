"""Runs on images without labels: what is measured, which weights are the best, what is said of an untrained end."""

import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import data
import pretrained
from pretrained.players import dataset_of
from registry import NonFiniteError, UserError
from studies import compare, evaluation
from training.train import train

pytestmark = pytest.mark.slow

TEACHER = "tests/teacher"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Some of the Digits as a folder without labels: 360 training and 40 held-out images."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(data.load("Digits").train.images[:400, :, :, 0]):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    own = {"dataset": "Images", "data_dir": str(folder), "image_size": 8, "channels": 1, "crop_pad": 1, "flip": "no"}
    own |= {"teacher_param": TEACHER, "student_arch": "CNN", "batch_size": 40, "train_epoch": 4, "log_every": 5}
    return {**own, "learning_rate": 0.2, "checkpoint_seconds": 1e9}


def rows(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "soft"
    options = {"temperature": 2.0, "weight": 0.5}
    recipe = {**recipe, "distiller": "SoftLogits", "distiller_options": options, "keep_epochs": 1}
    return recipe, folder, train({**recipe, "train_path": str(folder)}, quiet=True)


def test_a_student_learns_the_teachers_answers_without_a_label(finished):
    _, folder, summary = finished
    found = rows(folder, "test")
    assert [set(row) for row in found] == [{"kind", "step", "epoch", "agreement", "kl"}] * 4
    assert found[-1]["agreement"] > 50  # chance is 10
    assert found[-1]["kl"] < found[0]["kl"]
    assert summary["best"]["agreement"] == max(row["agreement"] for row in found)
    measured = evaluation.measure(str(folder), data.load("Digits"))
    assert measured["top1"] > 40
    terms = {"SoftLogits", "loss", "gradient_norm", "learning_rate"}
    assert all(
        terms <= set(row) <= {"kind", "step", "epoch", "share/SoftLogits", *terms} for row in rows(folder, "train")
    )


def test_the_weights_say_whose_classes_they_have_and_claim_no_accuracy(finished):
    _, folder, summary = finished
    for name in ("last", "best", "epochs/0002"):
        info = pretrained.load(folder / name).info
        assert (info["dataset"], info["test_top1"], info["num_classes"]) == ("Images", None, 10)
        assert info["class_names"] == pretrained.load(TEACHER).info["class_names"]
        assert "untrained" not in info
    assert pretrained.load(folder / "best").info["test"] == summary["best"]
    assert json.loads((folder / "config.json").read_text())["distiller_options"]["ce_weight"] == 0


def test_saved_weights_measure_as_the_summary_says(finished):
    recipe, folder, summary = finished
    for name in ("last", "best"):
        dataset = dataset_of(pretrained.load(folder / name).info, {"data_dir": recipe["data_dir"]})
        measured = evaluation.measure(str(folder / name), dataset, TEACHER)
        assert measured == {key: pytest.approx(summary[name][key], abs=1e-6) for key in ("agreement", "kl")}


def test_an_interrupted_run_ends_with_the_same_bits(finished, tmp_path, stopped_at):
    recipe, whole, _ = finished
    with stopped_at(11):
        train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in ("last", "best"):
        ours, theirs = weights(tmp_path / "run" / name), weights(whole / name)
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_a_table_of_accuracies_refuses_it(finished):
    with pytest.raises(UserError, match="is a run of networks without labels"):
        compare.read(finished[1], "a run")


def test_a_run_is_finished_and_not_repeated(finished):
    recipe, folder, summary = finished
    assert train({**recipe, "train_path": str(folder)}, quiet=True) == summary


def test_a_method_without_logits_has_no_test_and_the_last_weights_are_the_best(recipe, tmp_path, capsys):
    own = {**recipe, "distiller": "PKT", "seeds": 2, "train_epoch": 2, "train_path": str(tmp_path / "run")}
    summary = train(own)
    printed = capsys.readouterr()
    assert "No loss reaches the student's classifier" in printed.out
    assert "not what you want" not in printed.err
    for seed in ("s0", "s1"):
        folder = tmp_path / "run" / seed
        assert [set(row) for row in rows(folder, "test")] == [{"kind", "step", "epoch"}] * 2
        last, best = weights(folder / "last"), weights(folder / "best")
        assert all(np.array_equal(last[key], best[key]) for key in last)
        assert pretrained.load(folder / "best").info["untrained"] == ["classifier"]
    assert summary["last"] == summary["best"] == {"epoch": {"mean": 2.0, "std": 0.0}}
    evaluation.measure(str(tmp_path / "run/s0"), data.load("Digits"))
    assert "no loss has trained classifier of the network in" in capsys.readouterr().err


def test_with_the_teachers_classifier_the_answers_are_compared(recipe, tmp_path):
    own = {**recipe, "distiller": "PKT", "init_head": "teacher", "train_epoch": 1, "train_path": str(tmp_path / "run")}
    assert set(train(own, quiet=True)["last"]) == {"epoch", "agreement", "kl"}
    assert "untrained" not in pretrained.load(tmp_path / "run").info


def test_one_term_alone_is_never_called_extreme(finished, recipe, tmp_path, monkeypatch, capsys):
    from training import replica

    monkeypatch.setattr(replica, "PATIENCE", 1)
    train({**finished[0], "train_path": str(tmp_path / "run")}, quiet=True)
    assert "of the gradient since" not in capsys.readouterr().err


def test_a_bank_and_several_teachers_need_no_labels(recipe, tmp_path):
    soft = {**recipe, "distiller": "SoftLogits", "train_epoch": 1}
    banked = train({**soft, "teacher_views": 1, "train_path": str(tmp_path / "bank")}, quiet=True)
    several = {"teacher_param": f"{TEACHER},{TEACHER}", "transfer_options": {"combine": "logits"}}
    both = train({**soft, **several, "train_path": str(tmp_path / "several")}, quiet=True)
    assert set(banked["last"]) == set(both["last"]) == {"epoch", "agreement", "kl"}


def test_logits_that_are_not_finite_are_told(recipe, tmp_path):
    own = {**recipe, "distiller": "PKT", "learning_rate": 1e30, "on_nan": "skip", "train_epoch": 1}
    with pytest.raises(NonFiniteError):
        train({**own, "train_path": str(tmp_path / "run")}, quiet=True)
