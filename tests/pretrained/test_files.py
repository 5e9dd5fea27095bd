import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import models
import pretrained
from registry import DamagedFileError, UserError

INFO = {
    "arch": "ResNet8",
    "num_classes": 10,
    "class_names": [str(i) for i in range(10)],
    "dataset": "Digits",
    "image_shape": [8, 8, 1],
    "mean": [0.3],
    "std": [0.4],
    "test_top1": 97.5,
    "command": "python train_teacher.py --arch ResNet8",
}


@pytest.fixture
def folder(tmp_path, tiny):
    pretrained.save(tmp_path / "weights", tiny.variables, INFO)
    return tmp_path / "weights"


def test_a_round_trip_is_bit_for_bit(folder, tiny):
    found = pretrained.load(folder)
    expected = jax.tree.map(np.asarray, dict(tiny.variables))
    assert jax.tree.structure(found.variables) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found.variables), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    assert {name: found.info[name] for name in INFO} == INFO
    assert found.folder == folder
    assert len(found.sha256) == 64
    assert set(p.name for p in folder.iterdir()) == {"weights.safetensors", "model.json"}


def test_the_weights_that_come_back_give_the_same_logits(folder, tiny):
    variables = pretrained.check(pretrained.load(folder), tiny.model)
    assert set(variables) == {"params", "batch_stats"}
    expected = tiny.evaluate(tiny.variables, tiny.images).logits
    np.testing.assert_array_equal(tiny.evaluate(variables, tiny.images).logits, expected)


def test_saving_replaces_what_was_there(folder, tiny):
    (folder / "left_over.txt").write_text("old")
    before = pretrained.load(folder).sha256
    pretrained.save(folder, tiny.teacher_variables, {**INFO, "test_top1": None})
    after = pretrained.load(folder)
    assert after.sha256 != before
    assert after.info["test_top1"] is None
    assert not (folder / "left_over.txt").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["weights"]


def test_a_save_that_fails_leaves_the_old_weights(folder, tiny, monkeypatch):
    before = pretrained.load(folder).sha256

    def full(path, content):
        path.write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            pretrained.save(folder, tiny.teacher_variables, INFO)
    assert pretrained.load(folder).sha256 == before
    pretrained.save(folder, tiny.teacher_variables, INFO)
    assert pretrained.load(folder).sha256 != before
    assert [p.name for p in folder.parent.iterdir()] == ["weights"]


def test_a_run_folder_means_its_last(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "last")
    shutil.copytree(folder, run / "best")
    assert pretrained.load(run).folder == run / "last"
    assert pretrained.load(run / "best").folder == run / "best"
    assert pretrained.load(str(run)).folder == run / "last"


def test_an_unfinished_run_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"not finished.*Repeat its command"):
        pretrained.load(tmp_path)


def test_missing_weights_name_the_path_and_what_to_run(tmp_path):
    path = tmp_path / "nowhere"
    with pytest.raises(UserError) as caught:
        pretrained.load(path)
    assert str(path) in str(caught.value)
    assert "python train_teacher.py" in str(caught.value)
    assert caught.value.exit_code == 2
    assert not isinstance(caught.value, DamagedFileError)


@pytest.mark.parametrize("position", [0, 8, 0.5, -1])
def test_a_flipped_bit_in_the_weights_is_found(folder, position):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[int(position * len(content)) if isinstance(position, float) else position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"weights.safetensors is damaged") as caught:
        pretrained.load(folder)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
@pytest.mark.parametrize("digest", [True, False])
def test_cut_weights_are_found_with_and_without_a_digest(folder, keep, digest):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    if not digest:
        (folder / "model.json").write_text(json.dumps(INFO))
    with pytest.raises(DamagedFileError, match=r"weights.safetensors is damaged"):
        pretrained.load(folder)


JSON = {
    "empty": "",
    "cut": json.dumps(INFO)[:-20],
    "not an object": "[1, 2]",
    "null": "null",
    "no arch": json.dumps({k: v for k, v in INFO.items() if k != "arch"}),
    "num_classes a text": json.dumps({**INFO, "num_classes": "10"}),
    "mean null": json.dumps({**INFO, "mean": None}),
}


@pytest.mark.parametrize("case", JSON)
def test_a_damaged_description_is_found(folder, case):
    (folder / "model.json").write_text(JSON[case])
    with pytest.raises(DamagedFileError, match=r"model.json is damaged") as caught:
        pretrained.load(folder)
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) <= 3


def test_a_description_that_is_not_text_is_found(folder):
    (folder / "model.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DamagedFileError, match=r"model.json is damaged"):
        pretrained.load(folder)


def test_weights_of_another_depth_name_what_is_missing(folder):
    with pytest.raises(UserError, match=r"do not fit.*missing .*stage1_block1.*\(\d+\)") as caught:
        pretrained.check(pretrained.load(folder), models.create("ResNet14", 10))
    assert str(folder) in str(caught.value)
    assert "unexpected" not in str(caught.value)


def test_weights_of_a_deeper_network_name_what_is_unexpected(tmp_path):
    model = models.create("ResNet14", 10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32"))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(shapes))
    pretrained.save(tmp_path / "deep", variables, INFO)
    with pytest.raises(UserError, match=r"unexpected .*stage1_block1") as caught:
        pretrained.check(pretrained.load(tmp_path / "deep"), models.create("ResNet8", 10))
    assert "missing" not in str(caught.value)


def test_weights_of_another_number_of_classes_give_both_shapes(folder):
    with pytest.raises(UserError, match=r"'params/classifier/bias' has shape \(10,\), needed \(7,\)"):
        pretrained.check(pretrained.load(folder), models.create("ResNet8", 7))


SHIPPED = sorted(pathlib.Path(pretrained.__file__).parent.glob("*/model.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_weights_fit_their_network(path):
    weights = pretrained.load(path.parent)
    assert "sha256" in weights.info
    variables = pretrained.check(weights, models.create(weights.info["arch"], weights.info["num_classes"]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))


def test_shipped_weights_are_found_by_a_path_relative_to_the_repository(tmp_path, monkeypatch):
    assert SHIPPED, "no weights are shipped in pretrained/"
    monkeypatch.chdir(tmp_path)
    assert pretrained.find(f"pretrained/{SHIPPED[0].parent.name}") == SHIPPED[0].parent
