"""Images: a folder without labels. What is shared with ImageFolder is tested there."""

import numpy as np
import pytest
from PIL import Image

import data
from data import image_folder, images
from registry import DamagedFileError, UserError


def fill(root, count=20, start=0):
    """Pictures of one grey each, in sub-folders of sub-folders; the name says the grey."""
    for i in range(start, start + count):
        folder = root / ("deep/er" if i % 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (i, i, i)).save(folder / f"{i:03}.png")
    return root


def greys(split):
    return split.images[:, 0, 0, 0].tolist()


def test_all_pictures_of_all_folders_are_read_without_labels(tmp_path):
    (fill(tmp_path) / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / ".hidden/x.png")
    found = images.load(str(tmp_path), 4)
    assert sorted(greys(found.train) + greys(found.test)) == list(range(20))
    assert found.train.images.shape == (18, 4, 4, 3)
    assert (len(found.train), len(found.test)) == (18, 2)
    for split in (found.train, found.test):
        assert split.labels.dtype == np.int32
        assert (split.labels == -1).all()
    assert not found.labelled
    assert found.class_names == ()
    assert found.report[0] == "Images: 18 training, 2 test images without labels, 4x4x3."
    assert [line for line in found.report if "'notes.txt'" in line]
    assert [line for line in found.report if "hidden" in line]
    assert np.shares_memory(found.train.images, found.test.images.base)


def test_a_trained_network_names_the_classes(tmp_path):
    found = images.load(str(fill(tmp_path)), 4)
    named = found.named(["cat", "dog"])
    assert (named.num_classes, named.info["class_names"]) == (2, ["cat", "dog"])
    assert named.train is found.train
    digits = data.load("Digits")
    assert digits.named(["cat"]) is digits
    digits.check_labelled("--probe")
    with pytest.raises(UserError, match="--probe reads labels, and Images has none"):
        found.check_labelled("--probe")


def test_what_is_held_out_follows_from_the_names_alone(tmp_path):
    whole = images.load(str(fill(tmp_path)), 4)
    again = images.load(str(tmp_path), 8)
    assert greys(whole.test) == greys(again.test)
    assert whole.fingerprint == images.load(str(tmp_path), 4).fingerprint != again.fingerprint
    fill(tmp_path, 1, 100)
    assert images.load(str(tmp_path), 4).fingerprint != whole.fingerprint


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (19, 1), (20, 2), (1234, 123)])
def test_a_tenth_is_held_out(count, held_out):
    found = images.chosen(count)
    assert found.sum() == held_out
    assert np.array_equal(found, images.chosen(count))
    if held_out > 100:  # spread over the folder
        assert min(part.sum() for part in np.array_split(found, 4)) > 20


def test_damaged_pictures_are_named_or_left_out_and_change_no_other_places(tmp_path):
    before = images.load(str(fill(tmp_path)), 4)
    broken = tmp_path / "deep/er/001.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DamagedFileError, match=r"Images: 1 of 20 .*\n  .*deep/er/001.png.*\n.*--skip_damaged"):
        images.load(str(tmp_path), 4)
    found = images.load(str(tmp_path), 4, skip_damaged=True)
    for name in ("train", "test"):
        assert greys(getattr(found, name)) == [g for g in greys(getattr(before, name)) if g != 1]
    assert [line for line in found.report if line.startswith("Left out, damaged") and "001.png" in line]


def test_a_split_whose_pictures_are_all_damaged_is_an_error(tmp_path):
    fill(tmp_path, 2)
    held_out = images.load(str(tmp_path), 4).test.images[0, 0, 0, 0]
    for grey, what in ((held_out, "held-out"), (1 - held_out, "training")):
        file = next(tmp_path.rglob(f"{grey:03}.png"))
        content = file.read_bytes()
        file.write_bytes(b"no picture")
        with pytest.raises(DamagedFileError, match=f"all {what} pictures of"):
            images.load(str(tmp_path), 4, skip_damaged=True)
        file.write_bytes(content)


def test_what_is_decoded_once_and_kept_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = images.load(str(fill(tmp_path / "images")), 4)
    monkeypatch.setattr(image_folder, "KEPT", 0)
    for _ in range(2):
        assert images.load(str(tmp_path / "images"), 4).fingerprint == expected.fingerprint
    assert [path.name for path in (tmp_path / "cache").rglob("*.npys") if path.name.startswith("Images-")]


def test_channels_and_resizing_are_those_of_image_folder(tmp_path):
    found = data.load("Images", str(fill(tmp_path)), 4, 1, resize=6, interpolation="bicubic")
    assert found.image_shape == (4, 4, 1)
    assert (found.info["resize"], found.info["interpolation"]) == (6, "bicubic")


def test_a_validation_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--val_split 0\.1 reads labels, and Images has none"):
        data.load("Images", str(fill(tmp_path)), 4, val_split=0.1)


def test_no_folder_and_too_few_pictures_are_refused(tmp_path):
    for folder in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=f"Images needs --data_dir, a folder of pictures; got '{folder}'"):
            images.load(folder)
    fill(tmp_path, 1)
    with pytest.raises(UserError, match="has 1 pictures; two at least"):
        images.load(str(tmp_path))
