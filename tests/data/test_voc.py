"""VOC: what annotations become, which lists are splits, and what is refused, by name, in two lines."""

import numpy as np
import pytest
from boxed_files import annotation, picture, voc

import data
from data.objects import EMPTY
from registry import DamagedFileError, UserError


@pytest.fixture
def root(tmp_path):
    return voc(tmp_path / "own", {"train": ["one", "three"], "val": ["two"]})


def load(root, **options):
    data.load.cache_clear()
    return data.load("VOC", data_dir=str(root), image_size=60, **options)


def test_pixels_count_from_1_and_difficult_objects_are_crowds(root):
    found = load(root)
    assert (found.task, found.class_names) == ("detection", ("ant", "wolf"))
    train, test = found.train.labels, found.test.labels
    assert train.classes.tolist() == [[1, 0], [EMPTY, EMPTY]]
    assert train.boxes[0].tolist() == [[0, 0, 30, 40], [30, 8, 60, 12]]
    assert train.area[0].tolist() == [15 * 20, 15 * 2]
    assert (test.crowd.tolist(), test.boxes[0, 0].tolist()) == ([[True]], [4, 4, 24, 24])
    assert test.size.tolist() == [[40, 60]]  # of the picture itself: the annotation has none
    assert found.train.images.shape == (2, 60, 60, 3)
    np.testing.assert_array_equal(load(root, loading="stream").test.rows([0]), found.test.images)


def test_a_box_that_ends_where_it_begins_is_left_out(root):
    annotation(root, "one", (30, 20), [("wolf", (5, 1, 5, 20), 0), ("ant", (16, 5, 17, 6), 0)])
    found = load(root)
    assert found.train.labels.boxes[0].tolist() == [[30, 8, 34, 12]]
    assert found.notes[1] == "Left out, boxes without an area: 1."


@pytest.mark.parametrize(
    ("lists", "exams"),
    [
        ({"train": ["one"], "val": ["two"], "test": ["three"], "trainval": ["one", "two"]}, {"val": 1, "test": 1}),
        ({"trainval": ["one", "two"], "test": ["three"], "ant_trainval": ["one -1"]}, {"test": 1}),
        ({"train": ["one"], "val": ["two", "three"]}, {"test": 2}),
    ],
)
def test_lists_are_splits(lists, exams, tmp_path):
    voc(tmp_path / "VOCdevkit/VOC2012", lists)
    found = load(tmp_path)
    assert {name: len(split) for name, split in found.exams.items()} == exams
    assert len(found.train) == len(lists.get("train", lists.get("trainval")))


def test_a_picture_in_the_lists_of_both_splits_is_refused(tmp_path):
    voc(tmp_path, {"train": ["one", "two"], "test": ["two", "three"]})
    with pytest.raises(UserError, match=r"VOC: 1 pictures are in train\.txt and in test\.txt\.\nTake them out"):
        load(tmp_path)


BROKEN = {
    "a size without end": ("<annotation><size><width>inf</width></size></annotation>", "cannot convert float infinity"),
    "no XML": ("<annotation>", "no element found"),
    "a box without a side": (
        "<annotation><object><name>a</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
        r"object 'a' has the box",
    ),
    "entities": (
        '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>',
        r"it has a document type",
    ),
    "a file's content": (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
        r"it has a document type",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_named_in_two_lines_or_left_out(case, root):
    content, message = BROKEN[case]
    path = root / "Annotations/three.xml"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match=message) as raised:
        load(root)
    first, second = str(raised.value).split("\n")
    assert first.startswith(f"VOC: 1 of 2 annotations cannot be read: {path} (")
    assert "--skip_damaged" in second
    found = load(root, skip_damaged=True)
    assert len(found.train) == 1
    assert found.notes[1].startswith(f"Left out, the annotation cannot be read (--skip_damaged): 1 ({path} (")


def test_missing_files_are_named_or_left_out(root):
    (root / "JPEGImages/three.png").unlink()
    with pytest.raises(DamagedFileError, match=r"1 of 2 pictures of own are not in .*: JPEGImages/three\.jpg\.\nRest"):
        load(root)
    assert len(load(root, skip_damaged=True).train) == 1
    picture(root / "JPEGImages/three.png", 30, 20)
    (root / "Annotations/three.xml").unlink()
    with pytest.raises(DamagedFileError, match=r"three\.xml \(No such file"):
        load(root)


def test_another_size_than_annotated_is_an_error(root):
    annotation(root, "three", (20, 30), [])
    with pytest.raises(DamagedFileError, match=r"three\.png \(30 x 20 pixels, and 20 x 30 in its annotation\)"):
        load(root).train.rows([1])


@pytest.mark.parametrize("name", ["../one", "/one", "one\none"])
def test_a_name_that_leaves_the_folder_or_comes_twice_is_refused(name, root):
    (root / "ImageSets/Main/train.txt").write_text(f"{name}\n")
    with pytest.raises(UserError, match=r"train\.txt.* (does not stay in its folder|a name twice)\.\nIt has a picture"):
        load(root)


def test_what_is_no_such_folder_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"^VOC needs --data_dir, .*\n.*http"):
        load(tmp_path / "nowhere")
    voc(tmp_path / "other", {"train": ["one"]})
    with pytest.raises(UserError, match="it has other and own, give one of them"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"Main has no test\.txt and no val\.txt\.\nWrite"):
        load(tmp_path / "other")
    for path in (root / "Annotations").glob("*.xml"):
        path.write_text("<annotation/>")
    with pytest.raises(UserError, match="have no object"):
        load(root)
