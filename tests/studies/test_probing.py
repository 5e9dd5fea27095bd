"""`evaluate.py --probe`: embeddings of weights, on data with the same or other classes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import data
import evaluate
import models
import pretrained
from configs import command
from explain import probes
from explain.subject import Subject
from pretrained.players import player_of
from registry import UserError
from studies import probing

TEACHER = "tests/teacher"


@pytest.fixture(scope="module")
def weights():
    return pretrained.load(TEACHER)


@pytest.fixture(scope="module")
def found():
    (result,) = probing.measure([TEACHER], data.load("Digits"), ["knn", "linear"])
    return result


def test_embeddings_are_the_networks_own_in_blocks_of_any_size(weights, monkeypatch):
    digits, (player, variables) = data.load("Digits"), player_of(weights, "network")
    subject = Subject("teacher", player.model, variables, player.mean, player.std)
    expected = subject.answers(digits.test.images)[1]
    for images in (1000, 200):  # the last block is smaller
        monkeypatch.setattr(probing, "IMAGES", images)
        (embeddings,) = probing.embeddings([(player, variables)], digits.test)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_a_good_network_has_a_good_embedding(found):
    assert (found["width"], found["memory"], found["images"]) == (64, 1200, 597)
    assert found["knn"]["neighbours"] == 20
    for probe in ("knn", "linear"):
        assert found[probe]["top1"] > 97
    assert found["linear"]["converged"]


def test_the_classifier_is_not_asked(weights, found, tmp_path):
    """Weights whose classifier is another one, with other classes, have the same embedding."""
    params = dict(weights.variables["params"])
    params["classifier"] = {name: np.zeros_like(x[..., :3]) for name, x in params["classifier"].items()}
    info = {**weights.info, "num_classes": 3, "class_names": ["a", "b", "c"]}
    pretrained.save(tmp_path / "w", {**weights.variables, "params": params}, info)
    (other,) = probing.measure([str(tmp_path / "w")], data.load("Digits"), ["knn"])
    assert other["knn"] == found["knn"]


def test_other_data_than_that_of_the_training_is_measured(weights, tmp_path):
    for split, count in (("train", 9), ("test", 4)):
        for shade, name in ((40, "dark"), (200, "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), shade + i).save(tmp_path / split / name / f"{i}.png")
    dataset = data.load("ImageFolder", str(tmp_path), 8, 1)
    (result,) = probing.measure([TEACHER], dataset, ["knn", "linear"])
    assert result["knn"] == {"top1": result["knn"]["top1"], "neighbours": 18, "temperature": probes.TEMPERATURE}
    assert result["linear"]["top1"] == 100
    colours = data.load("ImageFolder", str(tmp_path), 8, 3)
    with pytest.raises(UserError, match="has 1 channels"):
        probing.measure([TEACHER], colours, ["knn"])


def test_what_cannot_be_probed_is_refused_by_name(weights, tmp_path, monkeypatch):
    digits = data.load("Digits")
    with pytest.raises(UserError, match=r"Unknown probe 'kn'\. Did you mean 'knn'"):
        probing.measure([TEACHER], digits, ["kn"])
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    Image.new("L", (8, 8)).save(tmp_path / "2.png")
    with pytest.raises(UserError, match="--probe reads labels, and Images has none"):
        probing.measure([TEACHER], data.load("Images", str(tmp_path), 8, 1), ["knn"])

    class Bare(type(models.create("CNN", 10))):
        def __call__(self, images, train=False, deltas=None):
            return super().__call__(images, train, deltas).logits

    monkeypatch.setattr(models, "create", lambda name, classes, **options: Bare(classes))
    with pytest.raises(UserError, match=r"the tap 'embedding', and CNN in .*teacher has none\.\nIts taps: logits only"):
        probing.measure([TEACHER], digits, ["knn"])


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """argv -> what `python evaluate.py` prints; the weights are copied, since results are written beside them."""
    monkeypatch.setattr(command, "prepare", lambda given: None)
    for name in ("one", "two"):
        shutil.copytree(TEACHER, tmp_path / name)

    def run(*argv):
        evaluate.main([word.replace("{}", str(tmp_path)) for word in argv])
        return capsys.readouterr().out

    return run


def test_the_command_line_prints_and_writes_each(typed, found, tmp_path):
    printed = typed("--param", "{}/one,{}/two", "--dataset", "Digits", "--probe", "linear,knn")
    assert printed.count(f"linear     {found['linear']['top1']:8.3f} %") == 2
    assert printed.count(f"knn        {found['knn']['top1']:8.3f} %") == 2
    for name in ("one", "two"):
        assert json.loads((tmp_path / name / "probe-Digits.json").read_text()) == {"dataset": "Digits", **found}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--probe", "knnn"], "Unknown probe 'knnn'. Did you mean 'knn'"),
        (["--probe", "knn", "--explain", "CAM"], "leave --explain out"),
        (["--probe", "knn", "--teacher_param", TEACHER], "leave --teacher_param out"),
        (["--probe", "knn", "--baseline", TEACHER], "leave --baseline out"),
    ],
    ids=str,
)
def test_mistakes_are_told(argv, message, typed):
    with pytest.raises(UserError, match=message):
        typed("--param", "{}/one", *argv)


def test_a_measure_of_images_without_labels_needs_a_teacher(typed, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 50 * i).save(folder / f"{i}.png")
    own = ["--param", "{}/one", "--dataset", "Images", "--data_dir", str(folder)]
    with pytest.raises(UserError, match=r"evaluate\.py without --teacher_param reads labels, and Images has none"):
        typed(*own)
    with pytest.raises(UserError, match="--explain reads labels, and Images has none"):
        typed(*own, "--explain", "CAM", "--teacher_param", TEACHER)
    printed = typed(*own, "--teacher_param", TEACHER)
    assert "agreement   100.000 %" in printed
    assert "top1" not in printed
    (path,) = (tmp_path / "one").glob("evaluation-Images-against-*.json")
    assert json.loads(path.read_text())["per_class"] == {}
