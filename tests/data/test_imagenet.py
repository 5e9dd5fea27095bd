"""ImageNet's validation folders: labels, the crop, blocks, and what is refused."""

import numpy as np
import pytest
from PIL import Image

import data
from configs.resolve import resolve
from data import imagenet, picture, pictures
from registry import DamagedFileError, UserError


@pytest.fixture
def folder(tmp_path):
    """DIR with five photographs of three classes, whose first pixels count them."""
    random = np.random.RandomState(0)
    for number, (name, size) in enumerate(
        [
            ("n01440764", (40, 30)),
            ("n01440764", (30, 47)),
            ("n01443537", (36, 36)),
            ("n15075141", (33, 64)),
            ("n15075141", (90, 31)),
        ]
    ):
        (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
        pixels = random.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / name / f"{number}.png")
    return tmp_path


def test_the_classes_are_a_thousand_in_the_order_of_wordnets_numbers():
    classes = imagenet.classes()
    numbers = [name.partition(" ")[0] for name in classes]
    assert len(set(numbers)) == 1000
    assert numbers == sorted(numbers)
    assert classes[0] == "n01440764 tench"
    assert classes[207] == "n02099601 golden retriever"
    assert classes[999].startswith("n15075141 ")


def test_labels_follow_the_folders_whether_named_by_wordnet_or_by_number(folder):
    found = data.load("ImageNet", str(folder), image_size=24)
    assert found.test.labels.tolist() == [0, 0, 1, 999, 999]
    assert (found.num_classes, found.image_shape, found.resize, found.interpolation) == (
        1000,
        (24, 24, 3),
        27,
        "bicubic",
    )
    assert found.report[1:] == ("val has images of 3 of the 1,000 classes.",)
    assert found.info["resize"] == 27
    for number, name in (("10", "n15075141"), ("2", "n01443537")):  # numbers are not sorted as text
        (folder / "val" / name).rename(folder / "val" / number)
    data.load.cache_clear()
    assert data.load("ImageNet", str(folder), image_size=24).test.labels.tolist() == [0, 0, 2, 10, 10]


def test_the_short_side_is_resized_by_pillow_and_the_centre_cropped(folder):
    found = data.load("ImageNet", str(folder), image_size=20, resize=25).test.images
    image = Image.open(folder / "val/n01440764/1.png").resize((25, 39), Image.Resampling.BICUBIC)  # of 30 x 47
    np.testing.assert_array_equal(found[1], np.asarray(image)[10:30, 2:22])  # round half to even: 9.5 and 2.5
    image = Image.open(folder / "val/n15075141/4.png").resize((72, 25), Image.Resampling.BICUBIC)  # of 90 x 31
    np.testing.assert_array_equal(found[4], np.asarray(image)[2:22, 26:46])


def test_the_images_come_in_blocks_and_labels_read_none(folder, monkeypatch):
    monkeypatch.setattr(pictures, "IMAGES", 2)
    found = data.load("ImageNet", str(folder), image_size=16)
    blocks = list(found.test.blocks())
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), found.test.images)
    (folder / "val/n01443537/2.png").write_bytes(b"no picture")
    data.load.cache_clear()
    found = data.load("ImageNet", str(folder), image_size=16)
    assert found.test.labels.tolist() == [0, 0, 1, 999, 999]
    next(blocks := found.test.blocks())
    with pytest.raises(
        DamagedFileError, match=r"ImageNet: 1 of 2 pictures(.|\n)*2\.png(.|\n)*Replace or remove them\.$"
    ):
        next(blocks)


def test_images_in_memory_are_one_block():
    split = data.load("Digits").test
    assert [block is split.images for block in split.blocks()] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "val").rename(d / "other"), "ImageNet needs --data_dir, a folder with val/WNID"),
        (lambda d: (d / "val/n01440764").rename(d / "val/tench"), r"val/tench is no class of ImageNet \(1 such"),
    ],
)
def test_other_folders_are_refused(change, message, folder):
    change(folder)
    with pytest.raises(UserError, match=message):
        data.load("ImageNet", str(folder), image_size=16)


def test_training_is_refused_in_one_line(folder):
    recipe = {"dataset": "ImageNet", "data_dir": str(folder), "transfer": "Labels", "image_size": 16}
    with pytest.raises(UserError, match=r"^ImageNet has no training images here: evaluate\.py measures .*\.$"):
        resolve(recipe)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (picture.Form(32, 2), "--channels must be 1"),
        (picture.Form(32, 3, 31), "--resize 31 is the short side that --image_size 32 is cropped from"),
        (picture.Form(32, 3, 40, "bicubi"), "Unknown interpolation 'bicubi'. Did you mean 'bicubic'?"),
    ],
)
def test_impossible_forms_are_refused(form, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        form.check()


def test_options_of_pictures_are_refused_where_images_keep_their_size():
    with pytest.raises(UserError, match="--resize 40: images of Digits keep their size"):
        data.load("Digits", resize=40)
    with pytest.raises(UserError, match="--channels 1 is for --dataset ImageFolder or Images; ImageNet"):
        data.load("ImageNet", channels=1)
