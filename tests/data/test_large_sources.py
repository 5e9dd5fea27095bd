"""Sources of large data: Tiny-ImageNet, ImageNet, prepared datasets of TFDS and of Hugging Face."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

import data
from registry import DamagedFileError, UserError


def picture(path, number, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 0, 255 - number)).save(path, "PNG")


@pytest.fixture
def tiny(tmp_path):
    """Two classes in the layout of the official archive; `wnids.txt` is not sorted."""
    root = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(("n02", "n01")):
        for i in range(3):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * number + i)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    for i in range(3):
        picture(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
    lines = ["val_0.JPEG\tn02\t0\t0\t9\t9", "val_1.JPEG\tn01\t0\t0\t9\t9", "val_2.JPEG\tn02\t0\t0\t9\t9"]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "words.txt").write_text("n01\tbullfrog, Rana\nn02\tgoldfish, Carassius\nn03\tother\n")
    return tmp_path


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny):
    found = data.load("TinyImageNet", str(tiny))
    assert found.class_names == ("n01 bullfrog", "n02 goldfish")  # sorted by WordNet's numbers
    assert (found.image_shape, found.streamed, found.notes) == ((64, 64, 3), False, ())
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
    assert found.test.labels.tolist() == [0, 1, 1]
    assert found.test.images[:, 0, 0, 0].tolist() == [101, 100, 102]
    assert data.load("TinyImageNet", str(tiny / "tiny-imagenet-200"), 32).image_shape == (32, 32, 3)
    assert (found.mean, found.augmentation.pad) == ((0.4802, 0.4481, 0.3975), 8)


def test_a_list_with_a_class_that_is_not_trained_on_is_refused(tiny):
    shutil.rmtree(tiny / "tiny-imagenet-200/train/n01")
    with pytest.raises(UserError, match="has the class n01, which is not in"):
        data.load("TinyImageNet", str(tiny))
    with pytest.raises(UserError, match=r"TinyImageNet needs --data_dir(.|\n)*wget"):
        data.load("TinyImageNet", str(tiny / "nowhere"))


@pytest.fixture
def imagenet(tmp_path):
    """Training images of two classes, and a flat `val` of three."""
    for wnid, count in (("n01440764", 3), ("n01443537", 2)):
        for i in range(count):
            picture(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", i, (20, 10))
    for i in range(3):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG", i, (20, 10))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.txt", "ILSVRC2012_val_00000000.JPEG 1\nILSVRC2012_val_00000001.JPEG 0\nILSVRC2012_val_00000002.JPEG 1\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000000,n01443537 1 2 3 4\n"
            "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8\nILSVRC2012_val_00000002,n01443537 1 2 3 4\n",
        ),
    ],
)
def test_imagenet_trains_on_its_folders_and_reads_a_flat_val_by_a_list(imagenet, name, text):
    (imagenet / name).write_text(text)
    found = data.load("ImageNet", str(imagenet), image_size=8, loading="stream")
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.test.labels.tolist() == [0, 1, 1]
    assert found.test.rows(np.arange(3))[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert (found.streamed, found.augmentation.pad) == (True, 0)


def test_a_list_that_names_no_picture_is_refused(imagenet):
    (imagenet / "val.txt").write_text("other.JPEG 1\n")
    with pytest.raises(UserError, match=r"No picture in .* is in the list"):
        data.load("ImageNet", str(imagenet), image_size=8)


def test_a_prepared_dataset_is_streamed_by_its_name(prepared):
    folder, written = prepared
    found = data.load("tfds:cifar10", str(folder), loading="stream")
    assert found.class_names == ("ant", "bee", "wasp")
    assert (found.name, found.image_shape, found.streamed) == ("tfds:cifar10", (32, 32, 3), True)
    for name, (images, labels) in written.items():
        split = getattr(found, name)
        np.testing.assert_array_equal(split.rows(np.arange(len(split))), images)
        np.testing.assert_array_equal(split.labels, labels)
    before = found.fingerprint
    data.load.cache_clear()
    assert data.load("tfds:cifar10", str(folder), check_files=True).fingerprint != before
    with pytest.raises(UserError, match=r"tfds:flowers is not prepared in (.|\n)*build flowers --file_format"):
        data.load("tfds:flowers", str(folder))


def test_damaged_records_name_the_record(prepared):
    found = data.load("tfds:cifar10", str(prepared[0]), loading="stream")
    for split in (found.train, found.test):
        split.source._source = [b"\xff"] * len(split)
    with pytest.raises(DamagedFileError, match=r"tfds:cifar10: 1 of 1 pictures(.|\n)*record 3 of the train split"):
        found.train.rows([3])


def test_parquet_files_of_the_hub_are_read_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    described = json.dumps({"info": {"features": features}})
    (tmp_path / "data").mkdir()
    for split, count in (("train", 5), ("test", 2)):
        contents = []
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 0, 0)).save(file, "PNG")
            contents.append({"bytes": file.getvalue(), "path": f"{i}.png"})
        table = pa.table({"image": contents, "label": pa.array(np.arange(count) % 2)})
        table = table.replace_schema_metadata({"huggingface": described})
        pa.parquet.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
    found = data.load("hf:owner/pets", str(tmp_path / "data"), image_size=8, loading="stream")
    assert found.class_names == ("cat", "dog")
    assert found.train.rows([4, 1])[:, 0, 0, 0].tolist() == [4, 1]
    assert found.test.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="has no parquet files"):
        data.load("hf:owner/pets", str(tmp_path / "nothing"))


def test_a_dataset_of_the_hub_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"^hf:cifar10 comes from the hub .* pip install -e '\.\[hub\]'\.\nOr give"):
        data.load("hf:cifar10")
