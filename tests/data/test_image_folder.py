"""ImageFolder: layout, formats, memory. Every input is written by the test itself."""

import os
import pathlib
import shutil
import sys
import tracemalloc
import unicodedata

import numpy as np
import pytest
from picture_files import encoded, folder_of, gradient, read, write
from PIL import Image

import data
from data import image_folder, picture
from data.dataset import channel_statistics
from registry import DamagedFileError, UserError


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
    random = np.random.RandomState(0).randint(0, 256, (13, 11, 3)).astype(np.uint8)
    Image.fromarray(random).save(folder / "train/Bee/x.png")
    expected = Image.fromarray(random).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read(folder).train.images[1], np.asarray(expected))


def cut(path: pathlib.Path):
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])


BREAKAGES = {
    "no split": (lambda f: shutil.rmtree(f / "test"), "test is not there"),
    "no classes": (
        lambda f: [shutil.rmtree(f / "test/ant"), shutil.rmtree(f / "test/Bee")],
        "test has no class folders",
    ),
    "empty class": (lambda f: (f / "train/Bee/x.jpg").unlink(), "train/Bee has no pictures"),
    "other classes": (lambda f: (f / "test/ant").rename(f / "test/wasp"), r"'wasp' is only in test"),
    "extra test class": (lambda f: write(f / "test/wasp/a.png"), r"'wasp' is only in test"),
    "empty test": (
        lambda f: [(f / "test/ant/t.jpeg").unlink(), (f / "test/Bee/t.png").unlink()],
        "test/Bee has no pic",
    ),
    "no train": (lambda f: shutil.rmtree(f / "train"), "train is not there"),
    "two of validation": (lambda f: [write(f / s / "ant/a.png") for s in ("val", "valid")], "has val and valid"),
    "one class": (lambda f: [shutil.rmtree(f / "train/Bee"), shutil.rmtree(f / "test/Bee")], "has one class, 'ant'"),
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


# Formats


FORMATS = {
    **{
        ".webp": "WEBP",
        ".bmp": "BMP",
        ".gif": "GIF",
        ".tif": "TIFF",
        ".TIFF": "TIFF",
        ".jfif": "JPEG",
        ".jp2": "JPEG2000",
    },
    **{".avif": "AVIF", ".ppm": "PPM", ".jpg": "PNG", ".png": "WEBP", ".txt": "PNG", "": "JPEG"},
}


@pytest.mark.parametrize("ending", FORMATS)
def test_format_is_known_by_its_content(ending, tmp_path):
    if FORMATS[ending] == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    content = encoded(gradient(), FORMATS[ending], tmp_path)
    with Image.open(tmp_path / "encoded") as image:
        expected = np.asarray(image.convert("RGB"))
    found = read(folder_of(tmp_path / "d", {f"x{ending}": content}), 16)
    np.testing.assert_array_equal(found.train.images[1], expected)
    assert found.train.labels.tolist() == [0, 0, 1]
    assert found.report == ("ImageFolder: 3 training, 2 test images of 2 classes, 16x16x3.",)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize("name", ["x.heic", "x.jpg", "x"])
def test_heic_names_the_package_that_reads_it(name, tmp_path):
    with pytest.raises(DamagedFileError, match=rf"train/a/{name} \(HEIC; pip install pillow-heif"):
        read(folder_of(tmp_path, {name: HEIC}))


def test_heic_is_read_where_the_package_is(tmp_path, monkeypatch):
    """The package's place is taken by one that sees a black square in every HEIC."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    accept = lambda head: head[4:12] == b'ftypheic'\n"
        "    Image.register_open('HEIF', lambda file, name: file.close() or Image.new('RGB', (4, 4)), accept)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    try:
        assert not read(folder_of(tmp_path / "d", {"x.heic": HEIC})).train.images[1].any()
    finally:
        Image.OPEN.pop("HEIF"), Image.ID.remove("HEIF"), sys.modules.pop("pillow_heif")


# Layout


def test_sub_folders_are_read_and_all_else_is_counted(tmp_path):
    text, picture_file = b"not a picture", encoded(gradient(), "PNG", tmp_path)
    files = {name: picture_file for name in ("1.png", "deep/2.png", "deep/er/3.png", ".hidden.png", "._1.png")}
    files |= {".cache/4.png": picture_file, "__MACOSX/5.png": picture_file, "Thumbs.db": text, "notes.txt": text}
    root = folder_of(tmp_path / "d", files)
    (root / "train/lost.png").write_bytes(picture_file)
    write(root / "masks/a/0.png")
    (root / "train/a/gone.png").symlink_to(root / "nowhere")
    (root / "train/a/deep/round").symlink_to(root / "train/a")
    found = read(root)
    assert len(found.train) == 5
    assert found.notes == (
        "Left out, folders beside the splits: 1 ('masks').",
        "Left out, files outside class folders: 1 ('train/lost.png').",
        "Left out, hidden files and files of the system: 5 ('train/a/._1.png', 'train/a/.cache/4.png', "
        "'train/a/.hidden.png', 'train/a/Thumbs.db', 'train/a/__MACOSX/5.png').",
        "Left out, links to a folder above: 1 ('train/a/deep/round').",
        "Left out, broken links: 1 ('train/a/gone.png').",
        "Left out, files of no picture format that is read: 1 ('train/a/notes.txt').",
    )


def test_a_name_in_both_unicode_forms_is_one_class(tmp_path):
    one, two = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for path in (f"train/{one}/1.png", f"train/{two}/0.png", "train/x/0.png", f"test/{two}/0.png", "test/x/0.png"):
        write(tmp_path / path)
    if len(os.listdir(tmp_path / "train")) == 2:
        pytest.skip("this file system takes both forms for one name")
    found = read(tmp_path)
    assert found.class_names == (one, "x")
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 0, 1], [0, 1])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("test", [True, False])
def test_validation_is_a_third_split_or_serves_as_test(name, test, tmp_path):
    for split in ("train", name, *(["test"] if test else [])):
        for shade, label in enumerate("ab"):
            write(tmp_path / split / label / "0.png", color=(9 * shade, 90, len(split)))
    found = read(tmp_path)
    validation = found.val if test else found.test
    assert (validation.images[1] == [9, 90, len(name)]).all()
    assert (found.val is None) != test
    assert found.best_on == ("val" if test else "test")
    assert found.report == (
        ("ImageFolder: 2 training, 2 validation, 2 test images of 2 classes, 8x8x3.",)
        if test
        else (
            "ImageFolder: 2 training, 2 test images of 2 classes, 8x8x3.",
            f"{tmp_path.name}/{name} serves as the test split: no folder 'test' is there.",
        )
    )
    assert found.fingerprint != read(folder_of(tmp_path / "other", {})).fingerprint


def test_a_class_may_be_in_training_alone(tmp_path):
    root = folder_of(tmp_path, {}, also=("c", "d"))
    shutil.rmtree(root / "test/c")
    (root / "test/d/0.png").unlink()
    found = read(root)
    assert found.class_names == ("a", "b", "c", "d")
    assert found.test.labels.tolist() == [0, 1]
    assert found.notes == ("test has images of 2 of the 4 classes; none of: 'c', 'd'.",)


def test_numbers_as_names_are_sorted_as_text_and_the_report_says_so(tmp_path):
    found = read(folder_of(tmp_path, {}, also=("2", "10")))
    assert found.class_names[:2] == ("10", "2")
    assert not found.notes
    for name in "ab":
        shutil.rmtree(tmp_path / "train" / name), shutil.rmtree(tmp_path / "test" / name)
    assert read(tmp_path).notes == ("The classes are sorted as text: 10, 2, ...",)


# Memory and time


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A folder of 300 pictures, each a small file, a hundred times as large when read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = folder_of(
        tmp_path / "d", {f"{i}.png": lambda path, i=i: write(path, color=(i % 256, 9, 9)) for i in range(300)}
    )
    return root


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_reading_takes_no_more_than_a_third_of_the_images_memory_beside_them(damaged, kept, many, monkeypatch):
    monkeypatch.setattr(image_folder, "KEPT", 0 if kept else 10**9)
    if damaged:
        (many / "train/a/1.png").write_bytes(b"damaged")
    for _ in range(1 + kept):  # the second time from the cache
        tracemalloc.start()
        found = read(many, 112, skip_damaged=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 1.3 * (found.train.images.nbytes + found.test.images.nbytes)


def test_a_large_folder_is_decoded_once(many, monkeypatch, capsys):
    monkeypatch.setattr(image_folder, "KEPT", 100)
    (many / "train/a/1.png").write_bytes(b"damaged")
    first = read(many, skip_damaged=True)
    with monkeypatch.context() as patch:
        patch.setattr(picture, "read", None)
        again = read(many, skip_damaged=True)
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(first, split).images, getattr(again, split).images)
        np.testing.assert_array_equal(getattr(first, split).labels, getattr(again, split).labels)
    assert (again.fingerprint, again.report) == (first.fingerprint, first.report)
    assert len(again.notes) == 1
    write(many / "train/a/0.png", color=(1, 2, 3))
    os.utime(many / "train/a/0.png", ns=(1, 1))
    assert (read(many, skip_damaged=True).train.images[0] == [1, 2, 3]).all()
    assert len(list((many.parent / "home/kd-cookbook/decoded").iterdir())) == 1  # the older file is gone
    assert read(many, 9, skip_damaged=True).image_shape == (9, 9, 3)
    assert capsys.readouterr().err == ""


def test_long_reading_prints_how_far_it_is(many, monkeypatch, capsys):
    monkeypatch.setattr(image_folder, "EVERY", 0)
    read(many)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading pictures: 16 of 303"
    assert lines[-1] == "Reading pictures: 303 of 303"
