"""VOC: photographs with boxes, in the layout of the PASCAL VOC challenge."""

import os
import pathlib
import xml.etree.ElementTree as ET
from xml.parsers import expat

import numpy as np

from data import boxed, picture
from data.dataset import Dataset
from data.image_folder import EXAMPLES
from data.pictures import Files
from registry import DamagedFileError, UserError

LISTS = "ImageSets/Main"
OTHERWISE = {"train": "trainval", "test": "val"}  # split -> the list that takes the place of one that is not there
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def load(
    data_dir: str = "",
    image_size: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Data for detection in VOC's layout: DATA_DIR/Annotations/*.xml, ImageSets/Main/*.txt and JPEGImages/*.

    Source: Everingham et al., IJCV 2010; host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar

    The lists are `train`, `val` and `test`. Without `test`, `val` is the test split; without `train`, `trainval` is the
    training split. All of this may lie in a folder inside DATA_DIR. The classes are the names of the objects, sorted as
    text. Objects that are `difficult` are as COCO's crowds are: never targets, and neither right nor wrong. Pixels are
    counted from 1, and a box has its last ones inside; a box that ends where it begins is left out. The picture of
    NAME.xml is JPEGImages/NAME with any ending.

    A picture's long side becomes `image_size` pixels, and padding of the mean colour makes it a square
    (`data.boxed.Letterbox`).

    Args:
        data_dir: the folder.
        image_size: side in pixels; 0 means 640.
        skip_damaged: leave pictures out that are missing or cannot be read, or whose annotation cannot be read.
        resize: not allowed.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint depends on the contents of the pictures.

    Raises:
        UserError: the folder does not have this layout.
        DamagedFileError: annotations cannot be read, or pictures are missing; the message names all of them.
    """
    form = boxed.form_of("VOC", image_size, resize, interpolation)
    above = pathlib.Path(data_dir).expanduser()
    there = data_dir and above.is_dir()
    places = [above, *sorted(above.glob("*")), *sorted(above.glob("VOCdevkit/*"))] if there else []
    roots = [place for place in places if all((place / own).is_dir() for own in ("Annotations", LISTS, "JPEGImages"))]
    if len(roots) != 1:
        found = f"; it has {' and '.join(root.name for root in roots)}, give one of them" if roots else ""
        raise UserError(
            f"VOC needs --data_dir, a folder with Annotations/, {LISTS}/ and JPEGImages/; got '{data_dir}'{found}.\n"
            "The challenge's archives: http://host.robots.ox.ac.uk/pascal/VOC"
        )
    root, notes = roots[0], []
    files = {file.rpartition(".")[0]: file for file in sorted(os.listdir(root / "JPEGImages"))}
    found = {split: _parsed(root, names, files, skip_damaged, notes) for split, names in _lists(root).items()}
    classes = sorted({own[0] for rows in found.values() for _, _, objects in rows for own in objects})
    if not classes:
        raise UserError(f"VOC: the annotations in {root / 'Annotations'} have no object.\nAnnotate one at least.")
    annotated = {split: _columns(root, rows, classes) for split, rows in found.items()}
    how = {"loading": loading, "skip_damaged": skip_damaged, "check_files": check_files}
    return boxed.dataset("VOC", tuple(classes), annotated, form, notes, **how)


def _lists(root: pathlib.Path) -> dict[str, list[str]]:
    """Split -> the names of its pictures."""
    files = {path.stem: path for path in (root / LISTS).glob("*.txt")}
    chosen = {split: next((own for own in (split, OTHERWISE[split]) if own in files), "") for split in OTHERWISE}
    for split, own in chosen.items():
        if not own:
            raise UserError(
                f"VOC: {root / LISTS} has no {split}.txt and no {OTHERWISE[split]}.txt.\nWrite one of them."
            )
    if chosen == {"train": "train", "test": "test"} and "val" in files:
        chosen["val"] = "val"
    lists = {split: files[own].read_text("utf-8", "surrogateescape").split("\n") for split, own in chosen.items()}
    lists = {split: list(filter(None, map(str.strip, lines))) for split, lines in lists.items()}
    for split, names in lists.items():
        path = files[chosen[split]]
        if not names or len(names) > len(set(names)):
            raise UserError(f"VOC: {path} is empty, or has a name twice.\nIt has a picture's name a line.")
        try:
            for name in names:
                boxed.inside(name)
        except ValueError as error:
            raise UserError(f"VOC: {path}: {error}.\nIt has a picture's name a line.") from None
    if both := set(lists["train"]) & set(lists["test"]):
        twice = f"{files[chosen['train']].name} and in {files[chosen['test']].name}"
        raise UserError(f"VOC: {len(both):,} pictures are in {twice}.\nTake them out of one of the two lists.")
    return lists


def _parsed(
    root: pathlib.Path, names: list[str], files: dict[str, str], skip_damaged: bool, notes: list[str]
) -> list[tuple[str, tuple[int, int], list]]:
    """(path of the picture, its (height, width), its objects) of each name; adds to the lines of the report."""
    pictures = [f"JPEGImages/{files.get(name, name + '.jpg')}" for name in names]
    present, lines = boxed.there(root, pictures, root.name, skip_damaged)
    found, problems = [], []
    picture.always_reading()
    for name, file, own in zip(names, pictures, present, strict=True):
        path = root / "Annotations" / f"{name}.xml"
        try:
            if own:
                found.append((file, *_read(path, root / file)))
        except (OSError, ValueError, LookupError, OverflowError, expat.ExpatError, picture.Unreadable) as error:
            reason = getattr(error, "strerror", None) or str(error)
            problems.append(f"{path} ({reason[:150]})")
    if (problems and not skip_damaged) or not found:
        shown = ", ".join(problems[:EXAMPLES]) + ", ..." * (len(problems) > EXAMPLES)
        raise DamagedFileError(
            f"VOC: {len(problems):,} of {len(names):,} annotations cannot be read: {shown}.\n"
            "Replace or remove them; --skip_damaged leaves them out."
        )
    notes += [*lines, *boxed.counted("Left out, the annotation cannot be read (--skip_damaged)", problems)]
    return found


def _read(path: pathlib.Path, file: pathlib.Path) -> tuple[tuple[int, int], list[tuple]]:
    """((height, width) of the picture, its objects: (class, four corners, whether difficult)).

    The size is that of the annotation, or of the picture where the annotation has none.
    """
    tree = _tree(path.read_bytes())
    height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    size = (height, width) if min(height, width) > 0 else picture.size(str(file))
    objects = []
    for own in tree.iter("object"):
        name = (own.findtext("name") or "").strip()
        corners = tuple(float(own.findtext(f"bndbox/{corner}") or "nan") for corner in CORNERS)
        if not name or not np.isfinite(corners).all():
            raise ValueError(f"object '{name}' has the box {corners}")
        objects.append((name, corners, (own.findtext("difficult") or "0").strip() == "1"))
    return size, objects


def _tree(content: bytes) -> ET.Element:
    """The elements of a document. A document type is refused: its entities could grow without limit or read files."""
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()

    def refuse(*_) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which is not read")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _columns(root: pathlib.Path, rows: list[tuple], classes: list[str]) -> boxed.Annotated:
    number, found = {name: label for label, name in enumerate(classes)}, [own for *_, own in rows]
    everything = [own for objects in found for own in objects]
    boxes = np.array([corners for _, corners, _ in everything], np.float64).reshape(-1, 4)
    boxes[:, :2] -= (boxes[:, 2:] > boxes[:, :2]).all(axis=1, keepdims=True)  # a box that ends where it begins is empty
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxed.Annotated(
        source=Files(root, [file for file, *_ in rows]),
        sizes=np.array([size for _, size, _ in rows], np.int64),
        image=np.repeat(np.arange(len(rows)), [len(objects) for objects in found]),
        boxes=boxes,
        classes=np.array([number[name] for name, *_ in everything], np.int32),
        crowd=np.array([difficult for *_, difficult in everything], bool),
        area=sides[:, 0] * sides[:, 1],
    )
