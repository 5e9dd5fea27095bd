"""Predictions: the preprocessing of the weights, the command's forms, and what is said of unreadable files."""

import ast
import csv
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from drawn import drawn
from PIL import Image

import data
import deploy
import models
import pretrained
from deploy import predict
from registry import UserError
from studies import evaluation

ROOT = pathlib.Path(__file__).parent.parent.parent
TEACHER = ROOT / "tests" / "teacher"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with 12 test images of Digits, and their labels."""
    folder, split = tmp_path_factory.mktemp("digits"), data.load("Digits").test
    for i in range(12):
        Image.fromarray(split.images[i, ..., 0]).save(folder / f"{i:02}.png")
    return folder, split.labels[:12]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An ImageFolder of 80 pictures of two sizes, and weights that want them resized, cropped and in colour."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    for split in ("train", "test"):
        for name in "ab":
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(40 if split == "test" else 2):
                pixels = random.randint(0, 256, (30 + 5 * (i % 2), 22, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    model = models.create("CNN", 2)
    variables = drawn(model, np.zeros((1, 16, 16, 3), np.float32), seed=3, biases=True)
    info = {"arch": "CNN", "num_classes": 2, "class_names": ["a", "b"], "dataset": "ImageFolder"}
    info |= {"image_shape": [16, 16, 3], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "test_top1": None}
    pretrained.save(root / "weights", jax.device_get(variables), {**info, "resize": 20, "interpolation": "bicubic"})
    return root


def test_files_get_the_probabilities_that_evaluation_computes(photos):
    dataset = data.load("ImageFolder", str(photos / "data"), image_size=16, resize=20, interpolation="bicubic")
    (expected,) = evaluation.answers([str(photos / "weights")], dataset, [""], "network")
    classify = deploy.load(photos / "weights")
    (block,) = classify.read(predict.pictures(str(photos / "data" / "test")))
    good, images, bad = block
    assert len(good) == 80  # more than a batch, and no multiple of one
    assert not bad
    np.testing.assert_array_equal(images, dataset.test.images)
    np.testing.assert_allclose(classify(images), jax.nn.softmax(expected), rtol=1e-5)


def test_arrays_of_another_size_are_resized_as_evaluation_resizes_them(photos):
    classify = deploy.load(photos / "weights")
    small = np.repeat(data.load("Digits").test.images[:8], 3, axis=-1)
    view = data.load("Digits", image_size=16, resize=20, interpolation="bicubic").view()
    player = dataclasses.replace(classify.player, **view)
    expected = evaluation.answers_to([(player, classify.variables)], [small])[0]
    np.testing.assert_allclose(classify.logits(small), expected, rtol=1e-4, atol=1e-5)


def test_the_same_digits_are_named(digits, capsys):
    folder, labels = digits
    predict.main(["--param", str(TEACHER), "--folder", str(folder), "--topk", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [str(folder / f"{i:02}.png") for i in range(12)]
    assert sum(line.split()[1] == str(label) for line, label in zip(lines, labels, strict=True)) >= 11
    predict.main(["--param", str(TEACHER), str(folder / "03.png"), "--json", "--topk", "99"])
    answer = json.loads(capsys.readouterr().out)
    assert sorted(entry["class"] for entry in answer["top"]) == list("0123456789")
    shares = [entry["probability"] for entry in answer["top"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_unreadable_files_are_named_and_the_others_predicted(digits, tmp_path, capsys):
    folder, _ = digits
    (tmp_path / "torn.png").write_bytes((folder / "00.png").read_bytes()[:40])
    files = [folder / "00.png", tmp_path / "torn.png", tmp_path / "gone.png", folder / "01.png"]
    with pytest.raises(SystemExit) as raised:
        predict.main(["--param", str(TEACHER), *map(str, files), "--csv", str(tmp_path / "table.csv"), "--topk", "1"])
    assert raised.value.code == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in errors[:2]] == [f"Left out: {file}" for file in files[1:3]]
    assert errors[2:] == ["2 of 4 files could not be read."]
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == ["file", "class1", "probability1"]
    assert [row[0] for row in table[1:]] == [str(files[0]), str(files[3])]


MISTAKES = {
    "no images": ([], "No images"),
    "no folder": (["--folder", "nowhere"], "'nowhere' is no folder"),
    "topk": (["a.png", "--topk", "0"], "at least 1"),
    "topk text": (["a.png", "--topk", "many"], "invalid int value: 'many'"),
    "json and csv": (["a.png", "--json", "--csv", "b"], "leave one of them out"),
    "csv in a file": (["a.png", "--csv", str(TEACHER / "model.json" / "table.csv")], "nothing can be written in"),
    "csv is a folder": (["a.png", "--csv", str(TEACHER)], "is a folder"),
    "flag": (["a.png", "--tokp", "1"], "Unrecognized arguments: --tokp 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_two_lines(mistake):
    arguments, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as raised:
        predict.main(["--param", str(TEACHER), *arguments])
    assert len(str(raised.value).splitlines()) <= 2


def test_a_classifier_that_no_loss_has_trained_is_told(tmp_path, capsys):
    shutil.copytree(TEACHER, tmp_path / "weights")
    described = tmp_path / "weights" / pretrained.DESCRIPTION
    described.write_text(json.dumps({**json.loads(described.read_text()), "untrained": ["classifier"]}))
    deploy.load(tmp_path / "weights")
    assert "no loss has trained classifier" in capsys.readouterr().err


def test_images_of_another_type_are_refused():
    classify = deploy.load(TEACHER)
    for images in (np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)):
        with pytest.raises(UserError, match="Images must be uint8"):
            classify(images)
    assert classify(np.zeros((0, 8, 8, 1), np.uint8)).shape == (0, 10)


def test_the_room_reads_models_data_and_pretrained_alone():
    allowed = {"configs", "data", "deploy", "files", "models", "pretrained", "registry"}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    found = set()
    for path in (ROOT / "deploy").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
    assert found & rooms <= allowed
