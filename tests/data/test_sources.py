import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import data
from data import image_folder, tfds_source
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


def test_digits_are_scikit_learns_and_in_one_split_only():
    from sklearn.datasets import load_digits

    source = load_digits()
    digits = data.load("Digits")
    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])

    def multiset(pixels, classes):
        return sorted((tuple(p), int(c)) for p, c in zip(pixels.reshape(1797, -1).tolist(), classes, strict=True))

    assert multiset(images, labels) == multiset(np.round(source.images * 255 / 16).astype(int), source.target)


def test_digits_split_is_fixed():
    """NumPy promises RandomState's stream for ever; the first ten of its shuffle are written down here."""
    from sklearn.datasets import load_digits

    positions = [1081, 1707, 927, 713, 262, 182, 303, 895, 933, 1266]
    assert data.load("Digits").train.labels[:10].tolist() == load_digits().target[positions].tolist()


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


def test_unknown_dataset_gives_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'CIFAR10'"):
        data.load("CIFAR-10")


# ImageFolder


def write(path: pathlib.Path, mode: str = "RGB", size: tuple[int, int] = (12, 9), color=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color or {"RGB": (255, 0, 51), "L": 102, "RGBA": (0, 255, 0, 128)}[mode]).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes; the training images of `ant` are RGB, grey, RGBA."""
    write(tmp_path / "train/ant/a.png")
    write(tmp_path / "train/ant/b.PNG", "L")
    write(tmp_path / "train/ant/c.png", "RGBA", (30, 40))
    write(tmp_path / "train/Bee/x.jpg", "RGB", color=(0, 0, 255))
    (tmp_path / "train/Bee/notes.txt").write_text("not an image")
    (tmp_path / "train/.cache").mkdir()
    write(tmp_path / "test/ant/t.jpeg", "L")
    write(tmp_path / "test/Bee/t.png")
    return tmp_path


def read(folder, size=8):
    return image_folder.load(str(folder), size)


def test_image_folder_reads_sorts_resizes_and_converts(folder):
    found = read(folder)
    assert found.class_names == ("Bee", "ant")
    assert found.train.labels.tolist() == [0, 1, 1, 1]
    assert found.test.labels.tolist() == [0, 1]
    assert found.train.images.shape == (4, 8, 8, 3)
    assert found.train.images.dtype == np.uint8
    assert found.train.labels.dtype == np.int32
    np.testing.assert_array_equal(found.train.images[1], np.broadcast_to([255, 0, 51], (8, 8, 3)))
    np.testing.assert_array_equal(found.train.images[2], 102)
    np.testing.assert_array_equal(found.train.images[3], np.broadcast_to([127, 255, 127], (8, 8, 3)))
    assert np.abs(found.train.images[0].astype(int) - [0, 0, 255]).max() <= 3  # JPEG
    assert found.mean == channel_statistics(found.train.images)[0]


def test_image_folder_is_32_pixels_unless_told(folder):
    assert read(folder, 0).image_shape == (32, 32, 3)


def test_image_folder_resizes_as_pillow_does(folder):
    from PIL import Image

    random = np.random.RandomState(0).randint(0, 256, (13, 11, 3)).astype(np.uint8)
    Image.fromarray(random).save(folder / "train/Bee/x.png")
    expected = Image.fromarray(random).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read(folder).train.images[1], np.asarray(expected))


def remove(path: pathlib.Path):
    for inner in sorted(path.rglob("*"), reverse=True):
        inner.rmdir() if inner.is_dir() else inner.unlink()
    path.rmdir()


def cut(path: pathlib.Path):
    from PIL import Image

    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])


BREAKAGES = {
    "no split": (lambda f: remove(f / "test"), "test is not there"),
    "no classes": (lambda f: [remove(f / "test/ant"), remove(f / "test/Bee")], "test has no class folders"),
    "empty class": (lambda f: (f / "train/Bee/x.jpg").unlink(), "train/Bee has no .png"),
    "other classes": (lambda f: (f / "test/ant").rename(f / "test/wasp"), r"'ant' is only in train"),
    "extra test class": (lambda f: write(f / "test/wasp/a.png"), r"'wasp' is only in test"),
    "one class": (lambda f: [remove(f / "train/Bee"), remove(f / "test/Bee")], "has one class, 'ant'"),
    "not an image": (lambda f: (f / "train/ant/a.png").write_text("hello"), r"train/ant/a.png"),
    "cut image": (lambda f: cut(f / "train/ant/a.png"), r"train/ant/a.png"),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_image_folder_names_the_path_that_is_wrong(case, folder):
    damage, message = BREAKAGES[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("path", ["", "/no/such/folder"])
def test_image_folder_without_a_folder_says_what_it_needs(path):
    with pytest.raises(UserError, match=rf"--data_dir.*train/CLASS.*'{path}'"):
        read(path)


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


def test_image_folder_reads_what_cameras_and_scanners_write(tmp_path):
    def dataset_of(save):
        root = tmp_path / save.__name__
        for split in ("train", "test"):
            for name in ("a", "b"):
                (root / split / name).mkdir(parents=True)
                save(root / split / name / "1")
                (root / split / name / "._1.png").write_bytes(b"not an image: a Mac's note")
        return data.load("ImageFolder", str(root), 8).train.images[0]

    def sixteen_bit(path):
        ramp = np.tile(np.linspace(0, 65535, 8).astype(np.uint16), (8, 1))
        Image.fromarray(ramp).save(path.with_suffix(".png"))

    def turned(path):
        image = Image.new("RGB", (8, 8), "black")
        image.paste("white", (0, 0, 8, 4))  # the upper half
        exif = Image.Exif()
        exif[0x0112] = 3  # taken upside down
        image.save(path.with_suffix(".png"), exif=exif)

    def transparent(path):
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(path.with_suffix(".png"))

    assert dataset_of(sixteen_bit)[0, :, 0].tolist() == (np.linspace(0, 65535, 8).astype(np.uint16) // 257).tolist()
    assert dataset_of(turned)[:, 0, 0].tolist() == [0] * 4 + [255] * 4
    assert (dataset_of(transparent) == 255).all()
