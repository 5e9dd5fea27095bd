"""COCO: what annotations become, where pictures are found, and what is refused, by name, in two lines."""

import io
import json
import shutil

import numpy as np
import pytest
from boxed_files import coco, picture, small_coco
from PIL import Image

import data
from data import boxed
from data import coco as module
from data.objects import EMPTY
from registry import DamagedFileError, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return small_coco(tmp_path / "own")


def load(root, size=20, **options):
    data.load.cache_clear()
    return data.load("COCO", data_dir=str(root), image_size=size, **options)


def test_boxes_classes_crowds_and_areas(root):
    found = load(root)
    assert (found.task, found.class_names, found.streamed) == ("detection", ("dog", "cat"), False)
    own = found.train.labels  # sorted by the pictures' numbers: 10, 20
    assert own.classes.tolist() == [[0, EMPTY], [1, 0]]  # by the categories' numbers: 3, 7
    assert own.crowd.tolist() == [[True, False], [False, False]]
    assert own.area.tolist() == [[60, 0], [48.5, 800]]  # without `area`: of the box
    np.testing.assert_allclose(own.scale, [20 / 30, 20 / 40])
    np.testing.assert_allclose(own.size, [[20, 20 / 3], [10, 20]], rtol=1e-6)
    np.testing.assert_allclose(own.boxes[1], [[2, 1, 7, 4], [0, 0, 20, 10]])
    np.testing.assert_allclose(own.boxes[0, 0] / own.scale[0], [1, 3, 6, 15], rtol=1e-6)
    assert found.test.labels.classes.tolist() == [[EMPTY]]
    assert found.notes[1:] == (
        "Crowds, neither targets nor counted as wrong: 1.",
        "Images without objects, which are kept: 1.",
    )


def test_pictures_fill_the_long_side_and_the_rest_is_the_mean_colour(root):
    images = load(root).train.images
    assert images.shape == (2, 20, 20, 3)
    with Image.open(root / "train2017/a.png") as image:
        np.testing.assert_array_equal(images[1, :10], np.asarray(image.resize((20, 10), Image.Resampling.BILINEAR)))
    assert (images[1, 10:] == boxed.FILL).all()
    assert (images[0, :, 7:] == boxed.FILL).all()  # 10 x 30 becomes 7 x 20
    assert not (images[0, :, 6] == boxed.FILL).all()
    assert load(root, size=80).train.images[1, 39, 79].tolist() != list(boxed.FILL)  # enlarged, too


def test_streamed_pictures_are_those_in_memory(root):
    memory, stream = load(root), load(root, loading="stream")
    assert stream.streamed
    np.testing.assert_array_equal(stream.train.rows(np.array([1, 0, 1])), memory.train.images[[1, 0, 1]])
    assert stream.fingerprint == memory.fingerprint
    held = load(root, loading="stream", val_split=0.5)
    whole = {image.tobytes(): row for row, image in enumerate(memory.train.images)}
    for split in (held.train, held.val):
        row = whole[split.rows(np.arange(1))[0].tobytes()]
        np.testing.assert_array_equal(split.labels.boxes, memory.train.labels.boxes[[row]])


def test_the_fingerprint_changes_with_annotations_names_and_if_asked_contents(root):
    before, checked = load(root).fingerprint, load(root, check_files=True).fingerprint
    pixels = bytearray((root / "train2017/a.png").read_bytes())
    pixels[-20] ^= 1
    (root / "train2017/a.png").write_bytes(pixels)
    assert load(root).fingerprint == before
    assert load(root, check_files=True).fingerprint != checked
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace("[4, 2, 10, 6]", "[4, 2, 10, 7]"))
    moved = load(root).fingerprint
    assert moved != before
    for own in root.glob("annotations/*.json"):
        own.write_text(own.read_text().replace('"dog"', '"hound"'))
    assert load(root).fingerprint != moved


def test_boxes_beyond_the_picture_are_clipped_and_those_without_area_left_out(root):
    boxes = [[-4, 2, 10, 6], [30, 10, 20, 10.005], [5, 5, 0, 3], [50, 0, 4, 4], [0, 0, 40.001, 20]]
    rows = [(20, 7, box, {"iscrowd": "0", "area": None}) for box in boxes]  # as some tools write them
    coco(root, "train2017", [(20, "a.png", 40, 20)], rows)
    found = load(root, size=40)
    assert found.train.labels.boxes[0].tolist() == [[0, 2, 6, 8], [30, 10, 40, 20], [0, 0, 40, 20]]
    assert found.notes[1:3] == ("Boxes beyond their picture, clipped: 2.", "Left out, boxes without an area: 2.")


def test_a_turned_picture_is_read_upright_and_another_size_than_annotated_is_an_error(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "train2017/a.png", 20, 40, exif=exif)  # 40 x 20 upright
    assert load(root).train.images.shape == (2, 20, 20, 3)
    picture(root / "train2017/a.png", 20, 40)
    with pytest.raises(DamagedFileError, match=r"a\.png \(20 x 40 pixels, and 40 x 20 in its annotation\)"):
        load(root).train.rows([1])


def test_missing_and_damaged_pictures_are_named_or_left_out(root):
    (root / "train2017/a.png").unlink()
    with pytest.raises(DamagedFileError) as raised:
        load(root)
    first, second = str(raised.value).split("\n")
    assert first == f"1 of 2 pictures of instances_train2017.json are not in {root}/train2017: a.png."
    assert "--skip_damaged" in second
    found = load(root, skip_damaged=True)
    assert (len(found.train), found.train.labels.classes.tolist()) == (1, [[0]])
    assert found.notes[1] == f"Left out, not in {root}/train2017 (--skip_damaged): 1 (a.png)."
    (root / "train2017/a.png").write_bytes(b"no picture")
    with pytest.raises(
        DamagedFileError, match=r"COCO: 1 of 2 pictures cannot be read:\n  .*a\.png \(no picture format"
    ):
        _ = load(root).train.images
    found = load(root, skip_damaged=True)
    assert (found.train.images.shape, found.train.labels.boxes.shape) == ((1, 20, 20, 3), (1, 2, 4))
    assert found.notes[1].startswith("Left out, damaged (--skip_damaged): 1 (")
    with pytest.raises(UserError, match="--loading stream reads none"):
        load(root, skip_damaged=True, loading="stream")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "b/../../a.png", "..\\a.png", "C:\\a.png", "a\0.png", ""])
def test_a_path_that_leaves_the_folder_is_refused(name, root):
    coco(root, "train2017", [(20, name, 40, 20)], [])
    with pytest.raises(DamagedFileError, match=r"instances_train2017\.json: images\[0\] .* not stay in its fold.*\n.*"):
        load(root)


BROKEN = {
    "no JSON": ("{", r"no JSON with categories, images and annotations \(Expecting"),
    "no list": ('{"images": 3, "annotations": [], "categories": []}', "lists are needed"),
    "no images": ('{"annotations": []}', r"\(no 'categories'\)"),
    "nested": ("[" * 100_000, "recursion"),
    "a short box": ([(20, 7, [1, 2, 3])], r"annotations\[0\] cannot be read"),
    "no number": ([(20, 7, [1, 2, 3, float("nan")])], r"annotations\[0\] .* nan"),
    "no such class": ([(20, 7, [1, 2, 3, 4]), (20, 8, [1, 2, 3, 4])], r"annotations\[1\] .*category_id 8"),
    "no such picture": ([(21, 7, [1, 2, 3, 4])], r"annotations\[0\] .*image_id 21"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_annotations_is_named_in_two_lines(case, root):
    content, message = BROKEN[case]
    path = root / "annotations/instances_train2017.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        coco(root, "train2017", [(20, "a.png", 40, 20)], content)
    with pytest.raises(DamagedFileError, match=message) as raised:
        load(root)
    lines = str(raised.value).split("\n")
    assert len(lines) == 2
    assert str(path) in lines[0]


def test_folders_of_other_names_are_found_and_two_files_of_one_split_are_not_guessed(root, tmp_path):
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images/train2017")
    (root / "val2017").rename(root / "images/val2017")
    outer = tmp_path / "outer"
    outer.mkdir()
    root.rename(outer / "inner")
    assert len(load(outer).train) == 2
    for own in ("train", "val"):
        shutil.move(outer / f"inner/annotations/instances_{own}2017.json", outer / f"inner/annotations/{own}.json")
    for file in outer.glob("inner/images/*/*"):
        file.rename(outer / "inner/images" / file.name)
    assert len(load(outer).train) == 2
    shutil.copy(outer / "inner/annotations/train.json", outer / "inner/annotations/train2.json")
    with pytest.raises(UserError, match=r"has train\.json and train2\.json\.\nKeep one"):
        load(outer)
    (outer / "inner/annotations/train2.json").unlink()
    shutil.copytree(outer / "inner", outer / "other")
    with pytest.raises(UserError, match=r"outer has inner and other\.\nGive one as --data_dir"):
        load(outer)


def test_a_test_file_makes_val_the_validation_split_and_categories_must_agree(root):
    picture(root / "test/d.png", 16, 16)
    coco(root, "test", [(1, "d.png", 16, 16)], [])
    found = load(root)
    assert list(found.exams) == ["val", "test"]
    coco(root, "test", [(1, "d.png", 16, 16)], [], categories=((3, "cat"), (7, "dog")))
    with pytest.raises(UserError, match="have other categories"):
        load(root)


def test_what_is_no_such_folder_or_option_is_refused(root, tmp_path):
    for where in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        if where == str(tmp_path):
            shutil.rmtree(root)
        with pytest.raises(UserError, match=r"^COCO needs --data_dir, .*\n.*https"):
            data.load("COCO", data_dir=where)
    with pytest.raises(UserError, match=r"--resize 40 would crop the boxes of COCO\.\nLeave"):
        data.load("COCO", data_dir=str(root), resize=40)
    with pytest.raises(UserError, match="interpolation 'cubic'"):
        data.load("COCO", data_dir=str(root), interpolation="cubic")


def test_a_large_file_of_annotations_is_read_once(root, monkeypatch):
    before = load(root)
    monkeypatch.setattr(module, "LARGE", 0)
    assert load(root).fingerprint == before.fingerprint
    monkeypatch.setattr(json, "loads", None)
    after = load(root)
    assert (after.fingerprint, after.class_names) == (before.fingerprint, before.class_names)
    np.testing.assert_array_equal(after.train.labels.boxes, before.train.labels.boxes)


def test_records_of_tensorflow_datasets_are_read(tmp_path):
    """A tiny `coco/2017` in TensorFlow Datasets' own form, written without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    kinds = tfds.features
    each = {"area": np.int64, "bbox": kinds.BBoxFeature(), "id": np.int64, "is_crowd": np.bool_}
    features = kinds.FeaturesDict(
        {
            "image": kinds.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image/filename": kinds.Text(),
            "image/id": np.int64,
            "objects": kinds.Sequence({**each, "label": kinds.ClassLabel(names=["dog", "cat"])}),
        }
    )
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    folder, splits = tmp_path / "coco/2017/1.1.0", []
    folder.mkdir(parents=True)
    box = kinds.BBox(ymin=0.1, xmin=0.25, ymax=0.5, xmax=1.0)
    two = [{"area": 48, "bbox": box, "id": 1, "is_crowd": crowd, "label": 1} for crowd in (False, True)]
    for split, rows in (("train", [two, []]), ("validation", [two[:1]])):
        writer = ArrayRecordWriter(str(folder / f"coco-{split}.array_record-00000-of-00001"), "group_size:1")
        for number, own in enumerate(rows):
            jpeg = io.BytesIO()
            Image.new("RGB", (40, 20), (200, 0, 0)).save(jpeg, "JPEG")
            jpeg.seek(0)
            row = {"image": jpeg, "image/filename": f"{number}.jpg", "image/id": number, "objects": own}
            writer.write(serializer.serialize_example(features.encode_example(row)))
        writer.close()
        splits.append({"name": split, "numBytes": "1", "shardLengths": [str(len(rows))]})
        splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    features.save_config(str(folder))
    info = {"name": "coco", "configName": "2017", "version": "1.1.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    found = load(tmp_path)
    own = found.train.labels
    assert (found.class_names, own.classes.tolist()) == (("dog", "cat"), [[1, 1], [EMPTY, EMPTY]])
    assert (own.crowd.tolist(), own.area[0].tolist()) == ([[False, True], [False, False]], [48, 48])
    np.testing.assert_allclose(own.boxes[0, 0], [5, 1, 20, 5], rtol=1e-6)
    assert found.test.images[0, 5, 5, 0] > 190
    assert load(tmp_path, loading="stream").fingerprint == found.fingerprint
