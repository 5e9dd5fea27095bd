import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import data
from data import tfds_source
from data.dataset import channel_statistics
from registry import DamagedFileError, UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("KD_TFDS_DIR", ROOT.parent / "shared" / "tfds"))


# Digits


def test_digits_sizes_and_types():
    digits = data.load("Digits")
    assert (len(digits.train), len(digits.test)) == (1200, 597)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    for split in (digits.train, digits.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert set(split.labels) == set(range(10))
        assert (split.images.min(), split.images.max()) == (0, 255)


def scikit_learns_digits():
    """(pixels [1797, 64], classes [1797]) of the file behind `load_digits`, whose import takes seconds."""
    package = pathlib.Path(importlib.util.find_spec("sklearn").origin).parent
    rows = np.loadtxt(package / "datasets/data/digits.csv.gz", delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(int)


def test_digits_are_scikit_learns_and_in_one_split_only():
    source, classes = scikit_learns_digits()
    digits = data.load("Digits")
    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])

    def multiset(pixels, classes):
        return sorted((tuple(p), int(c)) for p, c in zip(pixels.reshape(1797, -1).tolist(), classes, strict=True))

    assert multiset(images, labels) == multiset(np.round(source * 255 / 16).astype(int), classes)


def test_digits_split_is_fixed():
    """NumPy promises RandomState's stream for ever; the first ten of its shuffle are written down here."""
    positions = [1081, 1707, 927, 713, 262, 182, 303, 895, 933, 1266]
    assert data.load("Digits").train.labels[:10].tolist() == scikit_learns_digits()[1][positions].tolist()


def test_digits_statistics_are_those_of_the_training_images():
    digits = data.load("Digits")
    pixels = digits.train.images / 255.0
    assert digits.mean == (round(pixels.mean(), 4),)
    assert digits.std == (round(pixels.std(), 4),)


def test_channel_statistics_are_numpys_and_a_constant_channel_divides_by_one():
    images = np.random.RandomState(0).randint(0, 256, (9, 5, 4, 3)).astype(np.uint8)
    images[..., 1] = 51
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(std[::2], (images / 255).std((0, 1, 2))[::2], atol=6e-5)
    assert mean[1] == 0.2
    assert std[1] == 1.0


@pytest.mark.parametrize(
    ("option", "flag", "others"),
    [
        ({"channels": 1}, "--channels 1", ""),
        ({"skip_damaged": True}, "--skip_damaged", " or COCO or VOC"),
    ],
)
def test_an_option_that_a_dataset_has_no_use_for_is_refused(option, flag, others):
    message = f"^{flag} is for --dataset ImageFolder or Images{others}; Digits has no use for it"
    with pytest.raises(UserError, match=message):
        data.load("Digits", **option)


def test_a_dataset_in_memory_keeps_its_images_and_tells_networks_to_resize_them():
    whole, found = data.load("Digits"), data.load("Digits", image_size=16, resize=20, interpolation="bicubic")
    assert found.train.images is not None
    np.testing.assert_array_equal(found.test.images, whole.test.images)
    assert (found.image_shape, found.seen_shape) == ((8, 8, 1), (16, 16, 1))
    assert found.report[0].endswith("8x8x1; networks see 16x16.")
    facts = {"image_shape": [16, 16, 1], "resize": 20, "interpolation": "bicubic"}
    assert found.info == {**whole.info, **facts}
    assert found.view() == {"image_size": 16, "resize": 20, "interpolation": "bicubic"}
    assert found.view(32) == {"image_size": 32, "resize": 40, "interpolation": "bicubic"}
    assert (whole.view(), whole.view(16)["image_size"]) == ({}, 16)
    own = data.load("Digits", image_size=8, interpolation="bilinear")
    assert (own.view(), own.info) == ({}, whole.info)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"resize": 9}, "--resize 9: images of Digits keep their size. Add --image_size"),
        ({"interpolation": "bicubic"}, "--interpolation bicubic: images of Digits keep their size."),
        ({"image_size": 16, "resize": 9}, "--resize 9 is the short side that --image_size 16 is cropped from"),
        ({"image_size": 16, "interpolation": "bicubik"}, "bicubic"),
    ],
)
def test_sizes_that_exclude_each_other_are_refused(option, message):
    with pytest.raises(UserError, match=message):
        data.load("Digits", **option)


def test_report_of_a_dataset_of_the_library_is_one_line():
    assert data.load("Digits").report == ("Digits: 1,200 training, 597 test images of 10 classes, 8x8x1.",)
    assert data.load("Digits").val is None


def test_unknown_dataset_gives_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'CIFAR10'"):
        data.load("CIFAR-10")


# TensorFlow Datasets


def test_prepared_dataset_is_read_without_tensorflow_and_without_network(prepared, monkeypatch):
    folder, written = prepared

    def refuse(*args, **kwargs):
        raise AssertionError("reading a prepared dataset opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tensorflow = "tensorflow" in sys.modules
    found = tfds_source.load_cifar10(str(folder))
    assert found.name == "CIFAR10"
    assert found.class_names == ("ant", "bee", "wasp")
    for name, (images, labels) in written.items():
        split = getattr(found, name)
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert len(split) == len(labels)
    assert ("tensorflow" in sys.modules) == tensorflow


@pytest.mark.parametrize("damage", ["altered", "short", "missing"])
def test_damaged_records_are_named(damage, prepared, monkeypatch):
    file = next(prepared[0].glob("cifar10/*/cifar10-test.array_record*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    found = tfds_source.load_cifar10(str(prepared[0]))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "altered" else content[: len(content) // 3])
    with pytest.raises(DamagedFileError, match=r"the test split cannot be read .*\nRemove this folder"):
        found.test.images  # noqa: B018  # reads it
    if damage == "missing":
        monkeypatch.setattr(tfds_source.importlib.util, "find_spec", find_spec(None))
        with pytest.raises(UserError, match="not prepared"):
            tfds_source.load_cifar10(str(prepared[0]))


def test_the_cifar_benchmarks_augmentation_and_statistics(prepared):
    found = tfds_source.load_cifar10(str(prepared[0]))
    assert found.augmentation == data.Augmentation(pad=4, mode="zero", flip=True)
    assert found.mean == (0.4914, 0.4822, 0.4465)


def find_spec(tensorflow, real=importlib.util.find_spec):
    """`importlib.util.find_spec` on a machine that has TensorFlow, or has not (None)."""
    return lambda name, *rest: tensorflow if name == "tensorflow" else real(name, *rest)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_missing_dataset_says_in_a_second_what_to_run(name, tmp_path, monkeypatch):
    import tensorflow_datasets  # noqa: F401  (its import is not what is timed)

    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", find_spec(None))
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        data.load(name, str(tmp_path))
    assert time.perf_counter() - start < 1.0
    message = str(caught.value)
    assert message.startswith(f"{name} is not prepared in {tmp_path}.")
    assert "pip install -e '.[prepare]'" in message
    builder = {"FashionMNIST": "fashion_mnist"}.get(name, name.lower())
    assert f"python -m tensorflow_datasets.scripts.cli.main build {builder} --file_format array_record" in message
    assert f"--data_dir {tmp_path}" in message
    assert len(message.splitlines()) == 3
    assert caught.value.exit_code == 2
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_files_of_another_format_are_not_taken_for_prepared_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", find_spec(None))
    version = tmp_path / "cifar10/3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    (version / "cifar10-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(UserError, match="not prepared"):
        tfds_source.load_cifar10(str(tmp_path))


def test_preparing_that_fails_gives_the_last_line_and_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", find_spec("installed"))
    result = subprocess.CompletedProcess([], 1, None, "Traceback ...\nOSError: no network\n")
    monkeypatch.setattr(tfds_source.subprocess, "run", lambda *args, **kwargs: result)
    with pytest.raises(UserError, match=r"OSError: no network\nBy hand: python -m tensorflow_datasets") as caught:
        tfds_source.load_mnist(str(tmp_path))
    assert "Traceback" not in str(caught.value)
    assert capsys.readouterr().err.startswith("Preparing MNIST")


@pytest.mark.slow
def test_real_cifar10_is_read(tmp_path, monkeypatch):
    if not (SHARED / "cifar10").is_dir():
        pytest.skip(f"no prepared CIFAR-10 in {SHARED}; set KD_TFDS_DIR to the folder that has one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cifar = tfds_source.load_cifar10(str(SHARED))
    assert (len(cifar.train), len(cifar.test)) == (50000, 10000)
    assert cifar.image_shape == (32, 32, 3)
    assert cifar.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(cifar.test.labels).tolist() == [1000] * 10
    assert cifar.class_names[0] == "airplane"
    mean, std = channel_statistics(cifar.test.images)
    np.testing.assert_allclose(mean, cifar.mean, atol=0.01)
    np.testing.assert_allclose(std, cifar.std, atol=0.01)
