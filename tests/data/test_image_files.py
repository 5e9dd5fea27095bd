"""ImageFolder: damage, depth, channels, size and frames of pictures. Every input is written by the test itself."""

import re
import struct
import zlib

import numpy as np
import pytest
from picture_files import encoded, folder_of, gradient, noise, read, write
from PIL import Image, ImageFile

from data import picture
from registry import DamagedFileError, UserError

# Damage


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
