"""Runs that stream: the bits of a run in memory, a stop on the way, a bank on the disk, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

import data
from configs.resolve import resolve
from data import decoded
from registry import UserError
from training.builder import Builder
from training.run_folder import open_run
from training.train import train

SMALL = {"student_arch": "CNN", "distiller": "SoftLogits", "teacher_param": "tests/teacher", "train_epoch": 1}
SMALL |= {"batch_size": 200, "crop_pad": 1, "log_every": 1, "checkpoint_seconds": 1e9}
pytestmark = pytest.mark.slow


def results(folder):
    return (folder / "metrics.jsonl").read_bytes(), (folder / "last/weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory):
    """What runs in memory leave: without and with a bank."""
    folder = tmp_path_factory.mktemp("memory")
    train({**SMALL, "train_path": str(folder / "plain")}, quiet=True)
    train({**SMALL, "teacher_views": 2, "train_path": str(folder / "banked")}, quiet=True)
    return folder


def test_a_stopped_stream_continues_with_other_threads_to_the_bits_of_a_run_in_memory(in_memory, tmp_path, stopped_at):
    run = {**SMALL, "loading": "stream", "train_path": str(tmp_path / "run")}
    with stopped_at(3):
        train({**run, "loading_threads": 1}, quiet=True)
    train({**run, "loading_threads": 4}, quiet=True)
    assert results(tmp_path / "run") == results(in_memory / "plain")


def test_seeds_side_by_side_stream_an_order_each_and_remember_each_image(tmp_path):
    """PSKD keeps the predictions of every image; 700 of the 1,200 images have their label."""
    run = {"transfer": "PSKD", "student_arch": "CNN", "train_epoch": 2, "batch_size": 400, "num_labels": 700}
    run |= {"crop_pad": 1, "log_every": 1, "keep_epochs": 1, "seeds": 2, "stack_seeds": "yes"}
    for how in ("memory", "stream"):
        train({**run, "loading": how, "train_path": str(tmp_path / how)}, quiet=True)
    found, expected = ([results(tmp_path / how / seed) for seed in ("s0", "s1")] for how in ("stream", "memory"))
    assert found == expected
    assert found[0] != found[1]
    kept = [tmp_path / how / "s1/epochs/0001/weights.safetensors" for how in ("stream", "memory")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_a_folder_that_changes_while_a_run_is_stopped_is_noticed(tmp_path):
    for path in (tmp_path / "data" / split / name / "0.png" for split in ("train", "test") for name in "ab"):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    recipe = {"dataset": "ImageFolder", "data_dir": str(tmp_path / "data"), "image_size": 8, "loading": "stream"}
    recipe |= {"transfer": "Labels", "student_arch": "CNN", "batch_size": 2, "train_path": str(tmp_path / "run")}
    with open_run(tmp_path / "run", Builder(resolve(recipe)[0]).identity):
        pass
    Image.new("RGB", (9, 9), (1, 2, 3)).save(path)
    data.load.cache_clear()
    with pytest.raises(UserError, match=r"run holds a run with another config: data: .*\nThe images changed, or"):
        train(recipe, quiet=True)


def test_a_bank_of_a_stream_lies_in_the_cache_and_serves_other_runs(in_memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = {**SMALL, "loading": "stream", "teacher_views": 2}
    train({**run, "train_path": str(tmp_path / "one")})
    assert "No step runs the teacher." in capsys.readouterr().out
    assert results(tmp_path / "one") == results(in_memory / "banked")
    (values,) = decoded.cache_folder("banks").glob("*/teacher_bank/values.npy")
    theirs = np.load(in_memory / "banked" / "teacher_bank" / "values.npy")
    np.testing.assert_array_equal(np.load(values), theirs)
    assert not (tmp_path / "one" / "teacher_bank").exists()
    train({**run, "distiller": "DKD", "train_path": str(tmp_path / "two")})
    assert f"in {values.parents[1]}, read. No step" in capsys.readouterr().out


def test_loading_is_no_part_of_what_a_run_is():
    held, streamed = (resolve({**SMALL, "loading": how})[0] for how in ("memory", "stream"))
    assert {key: value for key, value in held.items() if key != "loading"} == {
        key: value for key, value in streamed.items() if key != "loading"
    }
    assert json.loads(json.dumps(held.to_dict()))["loading"] == "memory"


def test_updates_of_a_stream_come_one_at_a_time():
    with pytest.raises(UserError, match=r"--steps_per_call 5 has no effect: streamed images come one update at a time"):
        resolve({**SMALL, "loading": "stream", "steps_per_call": "5"}, ("steps_per_call",))
