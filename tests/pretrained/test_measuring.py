import json

import colours
import numpy as np
import pytest
import safetensors.numpy

import pretrained
from pretrained import convert

NUMBERS = [str(i) for i in range(12)]  # as the network orders them; a folder of images is read as text: 0, 1, 10, 11


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs") / "best"
    safetensors.numpy.save_file(colours.state(12), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return colours.images(tmp_path_factory.mktemp("lexical"), NUMBERS)


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    return colours.images(tmp_path_factory.mktemp("padded"), [name.zfill(2) for name in NUMBERS])


def run(source, out, *arguments):
    return convert.main([str(a) for a in (source, *colours.FLAGS, "--num_classes", 12, "--out", out, *arguments)])


def failed(capsys, code):
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 2
    assert code == 2
    return error


def test_the_right_order_is_measured_and_recorded(source, padded, tmp_path, capsys):
    assert run(source, tmp_path / "ours", "--data_dir", padded) == 0
    info = pretrained.load(tmp_path / "ours").info
    assert info["test_top1"] == 100
    assert info["class_names"] == [name.zfill(2) for name in NUMBERS]


def test_another_order_is_noticed_and_nothing_is_written(source, folder, tmp_path, capsys):
    error = failed(capsys, run(source, tmp_path / "ours", "--data_dir", folder))
    assert "Test top-1 is 16.67 % with the classes in the order 0, 1, 10, 11, 2" in error
    assert "100.00 % in the order 0, 1, 2, 3" in error
    assert "--class_names FILE" in error
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("form", ["lines", "json"])
def test_class_names_say_the_networks_order(form, source, folder, tmp_path):
    text = json.dumps(NUMBERS) if form == "json" else "\n".join(NUMBERS) + "\n\n"
    (tmp_path / "names").write_text(text)
    assert run(source, tmp_path / "ours", "--data_dir", folder, "--class_names", tmp_path / "names") == 0
    info = pretrained.load(tmp_path / "ours").info
    assert info["test_top1"] == 100
    assert info["class_names"] == NUMBERS


def test_class_names_of_the_card_say_the_order_too(folder, tmp_path):
    safetensors.numpy.save_file(colours.state(12), tmp_path / "best")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NUMBERS))}))
    assert run(tmp_path / "best", tmp_path / "ours", "--data_dir", folder) == 0
    assert pretrained.load(tmp_path / "ours").info["class_names"] == NUMBERS


def test_class_names_without_images_are_recorded(source, tmp_path, capsys):
    names = [f"kind {i}" for i in range(12)]
    (tmp_path / "names").write_text("\n".join(names))
    assert run(source, tmp_path / "ours", "--class_names", tmp_path / "names") == 0
    assert pretrained.load(tmp_path / "ours").info["class_names"] == names
    assert "Only --data_dir shows" in capsys.readouterr().out


WRONG_NAMES = {
    "too few": ("a\nb", "has 2 names for 12 classes"),
    "twice": ("\n".join(["a"] * 12), "has 'a' twice"),
    "no texts": (json.dumps(list(range(12))), "every name must be a text"),
    "broken": ("[1, ", "neither lines of text nor a JSON list"),
    "others": (
        "\n".join(f"kind {i}" for i in range(12)),
        "ImageFolder has no class 'kind 0'.\nIts classes are 0, 1, 10",
    ),
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_wrong_class_names_are_refused(case, source, folder, tmp_path, capsys):
    text, message = WRONG_NAMES[case]
    (tmp_path / "names").write_text(text)
    assert run(source, tmp_path / "ours", "--data_dir", folder, "--class_names", tmp_path / "names") == 2
    assert message in capsys.readouterr().err
    assert run(source, tmp_path / "ours", "--class_names", tmp_path / "nowhere") == 2
    assert "Cannot read --class_names" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_an_accuracy_near_chance_is_an_error_and_no_record(padded, tmp_path, capsys):
    same = {"fc.weight": np.zeros((12, 3), np.float32), "fc.bias": np.zeros(12, np.float32)}
    safetensors.numpy.save_file(same, tmp_path / "other")
    error = failed(capsys, run(tmp_path / "other", tmp_path / "ours", "--data_dir", padded))
    assert "Test top-1 is 8.33 % on 24 images; guessing reaches 8.33 %." in error
    assert "--arch" in error
    assert not (tmp_path / "ours").exists()


def test_a_test_split_that_can_tell_nothing_is_said(tmp_path, capsys):
    safetensors.numpy.save_file(colours.state(2), tmp_path / "two")
    folder = colours.images(tmp_path / "images", ["a", "b"])
    flags = ["--num_classes", 2, "--data_dir", folder]
    assert run(tmp_path / "two", tmp_path / "ours", *flags) == 0
    assert "Note: 4 test images are too few" in capsys.readouterr().out
