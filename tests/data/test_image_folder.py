"""ImageFolder: layout, formats, damage, depth, channels, memory. Every input is written by the test itself."""

import os
import pathlib
import re
import shutil
import struct
import sys
import tracemalloc
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

import data
from data import image_folder, picture
from data.dataset import channel_statistics
from registry import DamagedFileError, UserError


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


def read(folder, size=8, channels=0, skip_damaged=False):
    return image_folder.load(str(folder), size, channels, skip_damaged)


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


def gradient(mode="RGB", side=16):
    """A smooth picture without black or mid-grey lines."""
    x, y = np.meshgrid(np.linspace(20, 110, side), np.linspace(140, 250, side))
    channels = [x, y, (x + y) / 2][: len(mode)]
    return Image.fromarray(np.stack(channels, -1).squeeze().astype(np.uint8), mode)


def folder_of(root, files, also=()):
    """A folder whose class `a` of `train` has these files; name -> content, a picture or a function of the path."""
    for split in ("train", "test"):
        for name in ("a", "b", *also):
            write(root / split / name / "0.png")
    for name, content in files.items():
        path = root / "train/a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif callable(content):
            content(path)
        else:
            content.save(path)
    return root


def encoded(image, kind, tmp_path, **options):
    image.save(tmp_path / "encoded", kind, **options)
    return (tmp_path / "encoded").read_bytes()


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


# Damage


def noise(side=64):
    return Image.fromarray(np.random.RandomState(0).randint(1, 120, (side, side, 3)).astype(np.uint8))


def test_all_damaged_pictures_are_named_at_once_or_left_out_and_counted(tmp_path):
    jpeg = encoded(noise(), "JPEG", tmp_path)
    files = {
        "1.jpg": b"",
        "2.jpg": b"<html>",
        "3.png": jpeg[: len(jpeg) // 2],
        "4.jpg": jpeg,
        "5.webp": b"RIFF1234WEBP",
    }
    root = folder_of(tmp_path / "d", files)
    with pytest.raises(DamagedFileError) as caught:
        read(root)
    first, *named, last = str(caught.value).splitlines()
    assert first == "ImageFolder: 4 of 9 pictures cannot be read:"
    assert last == "Replace or remove them; --skip_damaged leaves them out."
    reasons = ["empty file", "no picture format.*b'<html>'", r"ends early: \d\d% of its lines", ".*WEBP|cannot|decoder"]
    for line, name, reason in zip(named, ("1.jpg", "2.jpg", "3.png", "5.webp"), reasons, strict=True):
        assert line.startswith(f"  {root}/train/a/{name} (")
        assert re.search(reason, line)
    assert caught.value.exit_code == 3
    found = read(root, skip_damaged=True)
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1])
    np.testing.assert_array_equal(found.train.images[2], np.broadcast_to([255, 0, 51], (8, 8, 3)))
    (note,) = found.notes
    assert note.startswith("Left out, damaged (--skip_damaged): 4 ('train/a/1.jpg: empty file', 'train/a/2.jpg: no pic")


@pytest.mark.parametrize(("kind", "short"), [("JPEG", 1), ("JPEG", 3), ("PNG", 200)])
def test_a_picture_that_lacks_its_last_bytes_is_read_with_a_warning(kind, short, tmp_path):
    content = encoded(noise(), kind, tmp_path)
    whole = read(folder_of(tmp_path / "whole", {"1.png": content}), 64).train.images[1].astype(int)
    found = read(folder_of(tmp_path / "short", {"1.png": content[:-short]}), 64)
    assert (abs(found.train.images[1] - whole)[:60].max()) <= (0 if kind == "PNG" else 60)
    assert (abs(found.train.images[1] - whole)[:47] == 0).all()
    (note,) = found.notes
    assert note.startswith("Warning: pictures that end early and are read")
    assert note.endswith(": 1 ('train/a/1.png').")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_class_or_split_of_damaged_pictures_only_is_an_error(tmp_path):
    root = folder_of(tmp_path, {})
    (root / "train/b/0.png").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=r"all pictures of .*/train/b are damaged"):
        read(root, skip_damaged=True)
    write(root / "train/b/0.png")
    for name in "ab":
        (root / f"test/{name}/0.png").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=r"all pictures of .*/test are damaged"):
        read(root, skip_damaged=True)


# Depth, channels, size


def ramp(top):
    return Image.fromarray(np.tile(np.linspace(0, top, 8).astype(np.uint16), (8, 1)))


def with_chunk(path, kind, content):
    """Adds a chunk to a PNG, after its header."""
    png = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(png[:33] + chunk + png[33:])


def sbit(path):
    ramp(4095).save(path)
    with_chunk(path, b"sBIT", bytes([12]))


DEPTHS = {
    "stated by PNG": ("1.png", sbit),
    "stated by TIFF": ("1.tif", lambda path: ramp(4095).save(path, tiffinfo={281: 4095})),
    "stated by PGM": (
        "1.pgm",
        lambda path: path.write_bytes(b"P5 8 8 4095\n" + np.asarray(ramp(4095)).astype(">u2").tobytes()),
    ),
    "not stated": ("1.png", lambda path: ramp(4095).save(path)),
}


@pytest.mark.parametrize("case", DEPTHS)
def test_grey_of_16_bits_keeps_its_range(case, tmp_path):
    name, save = DEPTHS[case]
    found = read(folder_of(tmp_path, {name: save}))
    expected = np.linspace(0, 4095, 8).astype(int) * 255 // 4095
    assert found.train.images[1][0, :, 0].tolist() == expected.tolist()
    text = "Grey of 16 bits that does not say its depth; 0 to 4095, the largest value, became 0 to 255: 1"
    assert found.notes == ((f"{text} ('train/a/1.png').",) if case == "not stated" else ())


def test_all_pictures_without_a_depth_share_one_scale(tmp_path):
    found = read(folder_of(tmp_path, {"1.png": ramp(1000), "2.tif": ramp(4000), "3.png": sbit}))
    assert found.train.images[1:4, 0, -1, 0].tolist() == [1000 * 255 // 4000, 255, 255]
    assert "0 to 4000" in found.notes[0]


def test_pixels_of_32_bits_are_refused(tmp_path):
    with pytest.raises(DamagedFileError, match="pixels of type F; 8 or 16 bits a channel are read"):
        read(folder_of(tmp_path, {"1.tif": Image.fromarray(np.zeros((8, 8), np.float32))}))


def test_one_channel_keeps_grey_and_turns_colour_into_luminance(tmp_path):
    grey, colour = gradient("L", 8), gradient("RGB", 8)
    root = folder_of(tmp_path, {"1.png": grey, "2.png": colour, "3.png": grey.convert("RGB")})
    found = read(root, channels=1)
    assert found.image_shape == (8, 8, 1)
    assert found.info["image_shape"] == [8, 8, 1]
    assert len(found.mean) == len(found.std) == 1
    for row, expected in ((1, grey), (2, colour.convert("L")), (3, grey)):
        np.testing.assert_array_equal(found.train.images[row, ..., 0], np.asarray(expected))
    assert found.notes == ("Pictures in colour, turned grey: 5.",)


def test_a_folder_of_grey_pictures_is_told_of_one_channel(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            write(tmp_path / split / name / "0.png", "L")
    assert read(tmp_path).notes == ("All pictures are grey; --channels 1 reads them with one channel.",)
    assert not read(tmp_path, channels=1).notes


def test_two_channels_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--channels must be 1 \(grey\) or 3 \(RGB\); got 2"):
        read(tmp_path, channels=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_very_large_pictures_are_read(kind, tmp_path, monkeypatch):
    """As large as Pillow refuses; here the limits are low."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(picture, "LARGE", 1000)
    content = encoded(gradient(side=128), kind, tmp_path)
    found = read(folder_of(tmp_path / "d", {"1.jpg": content}))
    expected = np.asarray(gradient(side=128).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    assert abs(found.train.images[1] - expected).max() <= 3
    reduced = ("Very large pictures, decoded at a reduced scale: 1 ('train/a/1.jpg').",)
    assert found.notes == (reduced if kind == "JPEG" else ())
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(picture, "LARGEST", 1000)
    if kind == "PNG":
        with pytest.raises(DamagedFileError, match="128 x 128 pixels, more than 1,000"):
            read(tmp_path / "d")


def test_the_first_of_several_frames_is_read_and_counted(tmp_path):
    frames = [gradient(), noise(16)]
    found = read(
        folder_of(
            tmp_path, {"1.webp": lambda p: frames[0].save(p, save_all=True, append_images=frames[1:], lossless=True)}
        ),
        16,
    )
    np.testing.assert_array_equal(found.train.images[1], np.asarray(frames[0]))
    assert found.notes == ("Pictures of several frames or pages, of which the first is read: 1 ('train/a/1.webp').",)


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
