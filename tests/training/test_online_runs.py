"""Several learners or several teachers in the engine: what is kept, and that a stop changes nothing."""

import json

import numpy as np
import pytest
import safetensors.numpy

import data
import pretrained
from registry import UserError
from studies import evaluation
from training.train import train

pytestmark = pytest.mark.slow

TEACHER = "tests/teacher"
SMALL = {"train_epoch": 2, "batch_size": 200, "log_every": 3, "crop_pad": 1, "checkpoint_seconds": 1e9}
ONLINE = {
    **SMALL,
    "transfer": "Online",
    "student_arch": "CNN",
    "teacher_arch": "ResNet8",
    "distiller": "SoftLogits+FitNet",
}


def rows(folder, kind):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


def check_interrupted(recipe, whole, folder, stopped_at, names):
    with stopped_at(5):
        train({**recipe, "train_path": str(folder)}, quiet=True)
    train({**recipe, "train_path": str(folder)}, quiet=True)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in names:
        ours, theirs = weights(folder / name), weights(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], value) for key, value in theirs.items()), name


def test_online_keeps_both_networks_and_goes_on_with_the_same_bits(tmp_path, stopped_at):
    whole = tmp_path / "whole"
    summary = train({**ONLINE, "train_path": str(whole)}, quiet=True)
    last = rows(whole, "test")[-1]
    assert last["teacher/top1"] == pretrained.load(whole / "teacher").info["test_top1"]
    dataset = data.load("Digits")
    for name, arch, top1 in (("teacher", "ResNet8", last["teacher/top1"]), ("last", "CNN", summary["last"]["top1"])):
        assert pretrained.load(whole / name).info["arch"] == arch
        assert evaluation.measure(str(whole / name), dataset)["top1"] == pytest.approx(top1)
    assert "teacher/cross_entropy" in rows(whole, "train")[-1]
    shares = {key for key in rows(whole, "train")[0] if key.startswith("share/")}  # of each epoch's first line
    assert shares == {"share/cross_entropy", "share/SoftLogits", "share/FitNet"}
    check_interrupted(ONLINE, whole, tmp_path / "run", stopped_at, ("last", "best", "teacher"))


def test_pcl_keeps_branches_and_its_mean_and_goes_on_with_the_same_bits(tmp_path, stopped_at):
    recipe = {**SMALL, "transfer": "PCL", "student_arch": "CNN", "transfer_options": {"branches": 2}}
    whole = tmp_path / "whole"
    train({**recipe, "train_path": str(whole)}, quiet=True)
    assert {"branch1/top1", "mean/top1", "ensemble/top1"} <= set(rows(whole, "test")[-1])
    assert not (whole / "ensemble").exists()
    names = ("last", "branch1", "mean")
    for name in names:
        assert pretrained.load(whole / name).info["arch"] == "CNN"
    check_interrupted(recipe, whole, tmp_path / "run", stopped_at, names)
    bad = {**recipe, "transfer_options": {"branches": 1}, "train_path": str(tmp_path / "bad")}
    with pytest.raises(UserError, match="'branches' must be at least 2"):
        train(bad, quiet=True)


def test_mutual_with_two_architectures_takes_the_papers_loss_by_itself(tmp_path):
    recipe = {**SMALL, "train_epoch": 1, "transfer": "Mutual", "student_arch": "CNN", "teacher_arch": "CNN,ResNet8"}
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["distiller"] == "SoftLogits"
    assert config["distiller_options"] == {"weight": 1.0, "ce_weight": 1.0, "temperature": 1.0}
    assert pretrained.load(tmp_path / "run" / "peer1").info["arch"] == "CNN"
    assert pretrained.load(tmp_path / "run" / "peer2").info["arch"] == "ResNet8"
    row = rows(tmp_path / "run", "train")[-1]
    terms = [row[f"{p}{t}"] for p in ("", "peer1/", "peer2/") for t in ("cross_entropy", "SoftLogits")]
    assert row["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert {"peer1/top1", "peer2/top1", "ensemble/top1"} <= set(rows(tmp_path / "run", "test")[-1])


def test_an_online_teacher_can_start_from_weights(tmp_path):
    recipe = {**SMALL, "train_epoch": 1, "transfer": "Online", "student_arch": "CNN", "teacher_param": TEACHER}
    options = {"teacher_learning_rate": 0.0}
    folder = tmp_path / "run"
    train({**recipe, "transfer_options": options, "train_path": str(folder)}, quiet=True)
    ours, theirs = weights(folder / "teacher"), weights(pretrained.find(TEACHER))
    params = [name for name in theirs if name.startswith("params")]
    assert params
    assert all(np.array_equal(ours[name], theirs[name]) for name in params)
    config = json.loads((folder / "config.json").read_text())
    assert config["teacher_sha256"] == pretrained.load(TEACHER).sha256
    assert config["teacher_arch"] == pretrained.load(folder / "teacher").info["arch"] == "CNN"


def test_several_teachers_are_loaded_checked_and_measured(tmp_path, capsys):
    teacher = pretrained.load(TEACHER)
    info = {key: value for key, value in teacher.info.items() if key != "sha256"}
    other = tmp_path / "other"
    pretrained.save(other, teacher.variables, {**info, "std": [5.0]})
    recipe = {**SMALL, "train_epoch": 1, "student_arch": "CNN", "teacher_param": f"{TEACHER}, {other}"}
    folder = tmp_path / "run"
    summary = train({**recipe, "train_path": str(folder)})
    printed = capsys.readouterr()
    assert printed.out.count("test top-1") >= 2
    assert "recorded test top-1" in printed.err  # of the second, whose statistics are wrong
    assert summary["last"]["agreement"] > 5
    config = json.loads((folder / "config.json").read_text())
    assert config["teacher_arch"] == "CNN,CNN"
    assert len(config["teacher_sha256"].split(",")) == 2
    mistakes = {
        "--teacher_arch names 1 networks and --teacher_param 2 weights": {"teacher_arch": "CNN"},
        "--teacher_arch is ResNet8, but the weights": {"teacher_arch": "CNN,ResNet8"},
        "there are 2 teachers, but a bank holds": {"teacher_views": 2},
        "only logits are there": {"distiller": "AT", "transfer_options": {"combine": "logits"}},
        "as many numbers as there are teachers": {"transfer_options": {"teacher_weights": [1.0]}},
    }
    for message, change in mistakes.items():
        with pytest.raises(UserError, match=message):
            train({**recipe, **change, "train_path": str(tmp_path / "bad")}, quiet=True)
    assert not (tmp_path / "bad").exists()
