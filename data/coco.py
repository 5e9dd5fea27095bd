"""COCO: photographs with boxes of 80 classes, and any data in the same layout."""

import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from data import boxed, decoded, picture, tfds_named
from data.dataset import Dataset
from data.pictures import Files
from data.tfds_source import prepared
from registry import DamagedFileError, UserError

SPLITS = ("train", "val", "test")  # the name of a split's file begins with the split's
LARGE = 2**25  # bytes; what is read from a larger annotation file is kept in the cache
LARGEST = 2**31  # above every number of a category and every side of a picture
TFDS = "coco/2017"
TFDS_SPLITS = {"train": "train", "test": "validation"}


def load(
    data_dir: str = "",
    image_size: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Data for detection in COCO's layout: DATA_DIR/annotations/instances_NAME.json and the pictures in DATA_DIR/NAME.

    Source: Lin et al., ECCV 2014, arXiv:1405.0312; images.cocodataset.org/zips/train2017.zip

    NAME begins with train, val or test. Without annotations of `test`, `val` is the test split. The pictures of NAME
    lie in NAME, images/NAME, images or DATA_DIR itself. All of this may lie in a folder inside DATA_DIR. The classes
    are sorted by their numbers in the file. `coco/2017` as TensorFlow Datasets prepares it is read, too.

    A picture's long side becomes `image_size` pixels, and padding of the mean colour makes it a square
    (`data.boxed.Letterbox`).

    Args:
        data_dir: the folder.
        image_size: side in pixels; 0 means 640.
        skip_damaged: leave pictures out that are missing or cannot be read.
        resize: not allowed.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint depends on the contents of the pictures.

    Raises:
        UserError: the folder does not have this layout.
        DamagedFileError: the annotations cannot be read, or pictures are missing.
    """
    form = boxed.form_of("COCO", image_size, resize, interpolation)
    above = pathlib.Path(data_dir).expanduser()
    if data_dir and (above / TFDS).is_dir():
        annotated, names, notes = _of_tfds(above)
    else:
        annotated, names, notes = _of_files(above if data_dir else None, skip_damaged)
    how = {"loading": loading, "skip_damaged": skip_damaged, "check_files": check_files}
    return boxed.dataset("COCO", names, annotated, form, notes, **how)


def _of_files(above: pathlib.Path | None, skip_damaged: bool) -> tuple[dict, tuple[str, ...], list[str]]:
    """(split -> its pictures, names of the classes, lines of the report) of files of JSON."""
    places = [above, *sorted(path for path in above.iterdir() if path.is_dir())] if above and above.is_dir() else []
    roots = [place for place in places if _listed(place)]
    if len(roots) > 1 and roots[0] != above:
        raise UserError(f"COCO: {above} has {' and '.join(own.name for own in roots)}.\nGive one as --data_dir.")
    root = roots[0] if roots else None
    if root is None:
        raise UserError(
            "COCO needs --data_dir, a folder with train2017/, val2017/ and annotations/instances_*.json; got "
            f"'{above or ''}'.\nImages and annotations: https://cocodataset.org/#download"
        )
    files = _listed(root)
    lacking = [kinds for kinds in (("train",), ("val", "test")) if not any(kind in files for kind in kinds)]
    if lacking:
        wanted = " or ".join(f"instances_{kind}*.json" for kind in lacking[0])
        raise UserError(f"COCO: {root / 'annotations'} has no {wanted}.\nTraining needs train, and tests val or test.")
    if "test" not in files:
        files["test"] = files.pop("val")
    annotated, first, notes = {}, None, []
    for split, path in files.items():
        read = functools.partial(_index, path)
        place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
        index = read() if path.stat().st_size < LARGE else decoded.kept(f"COCO-annotations-{place}", [path], read)
        first = first or index
        if [x.tolist() for x in index[:2]] != [x.tolist() for x in first[:2]]:
            raise UserError(f"COCO: {path} and {files['train']} have other categories.\nGive both the same list.")
        annotated[split] = _present(root, path, index[2:], skip_damaged, notes)
    return annotated, tuple(first[1].tolist()), notes


def _listed(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Split -> its file of annotations."""
    there = sorted((root / "annotations").glob("*.json"))
    there = [path for path in there if path.name.startswith("instances_")] or there
    found = {}
    for split in SPLITS:
        own = [path for path in there if path.stem.removeprefix("instances_").lower().startswith(split)]
        if len(own) > 1:
            names = " and ".join(path.name for path in own)
            raise UserError(f"COCO: {root / 'annotations'} has {names}.\nKeep one of them in this folder.")
        found |= {split: own[0]} if own else {}
    return found


def _index(path: pathlib.Path) -> list[np.ndarray]:
    """What a file of annotations says.

    Returns:
        Arrays: numbers and names of the classes [K]; paths of the pictures [N], sorted by their numbers; and the last
        six fields of `data.boxed.Annotated`.
    """
    try:
        content = json.loads(path.read_bytes())
        parts = [content[key] for key in ("categories", "images", "annotations")]
        if not all(isinstance(part, list) for part in parts):
            raise TypeError("lists are needed")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedFileError(
            f"{path} is no JSON with categories, images and annotations ({reason[:150]}).\nRestore the file."
        ) from None
    each = functools.partial(_each, path)
    classes = sorted(each("categories", parts[0], _category))
    pictures = sorted(each("images", parts[1], _picture))
    number = {own: label for label, (own, _) in enumerate(classes)}
    place = {own[0]: row for row, own in enumerate(pictures)}
    for what, rows, known in (
        ("categories", classes, number),
        ("categories", classes, {name for _, name in classes}),
        ("images", pictures, place),
    ):
        if len(rows) > len(known) or not rows:
            raise DamagedFileError(f"{path}: {what} are empty, or two are alike.\nRepair the file.")
    found = each("annotations", parts[2], lambda row: _object(row, place, number))
    found = sorted(found, key=lambda own: own[0])  # stable: the objects of a picture keep their order
    image, boxes, labels, crowd, area = zip(*found, strict=True) if found else ((),) * 5
    return [
        np.array([own for own, _ in classes], np.int64),
        np.array([name for _, name in classes], np.str_),
        np.array([own[1] for own in pictures], np.str_),
        np.array([own[2:] for own in pictures], np.int64),
        np.array(image, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int32),
        np.array(crowd, bool),
        np.array(area, np.float64),
    ]


def _each(path: pathlib.Path, what: str, rows: Sequence, take: Callable) -> list:
    """What `take` makes of each row; the error for a row that it cannot read names the row."""
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(take(row))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DamagedFileError(f"{path}: {what}[{number}] cannot be read ({reason[:150]}).\nRepair it.") from None
    return found


def _category(row: dict) -> tuple[int, str]:
    """(number, name)."""
    if not 0 <= int(row["id"]) < LARGEST:
        raise ValueError(f"id {row['id']}")
    return int(row["id"]), str(row["name"])


def _picture(row: dict) -> tuple[int, str, int, int]:
    """(number, path, height, width)."""
    height, width = int(row["height"]), int(row["width"])
    if not 0 < min(height, width) <= max(height, width) < LARGEST:
        raise ValueError(f"a picture of {width} x {height} pixels")
    return int(row["id"]), boxed.inside(row["file_name"]), height, width


def _object(row: dict, place: dict[int, int], number: dict[int, int]) -> tuple:
    """(picture, (x1, y1, x2, y2), class, whether a crowd, area)."""
    x, y, width, height = map(float, row["bbox"])
    area = float(width * height if row.get("area") is None else row["area"])
    if not all(map(math.isfinite, (x, y, width, height, area))):
        raise ValueError(f"bbox {row['bbox']} and area {area}")
    own, label = int(row["image_id"]), int(row["category_id"])
    if own not in place or label not in number:
        raise ValueError(f"image_id {own} or category_id {label} is not in the file")
    return place[own], (x, y, x + width, y + height), number[label], bool(int(row.get("iscrowd", 0))), area


def _present(root: pathlib.Path, path: pathlib.Path, index: list, skip_damaged: bool, notes: list) -> boxed.Annotated:
    """The pictures of a file of annotations that are there; adds to the lines of the report."""
    names, sizes, image, *columns = index
    name, files = path.stem.removeprefix("instances_"), names.tolist()
    folders = [root / name, root / "images" / name, root / "images", root]
    folder = next((own for own in folders if any((own / file).is_file() for file in files[:100])), folders[0])
    present, lines = boxed.there(folder, files, path.name, skip_damaged)
    notes += lines
    kept = present[image]
    image = (np.cumsum(present) - 1)[image[kept]]
    return boxed.Annotated(Files(folder, names[present].tolist()), sizes[present], image, *(x[kept] for x in columns))


def _of_tfds(folder: pathlib.Path) -> tuple[dict, tuple[str, ...], list[str]]:
    """What `_of_files` returns, of records of TensorFlow Datasets."""
    builder = prepared(TFDS, str(folder.resolve()), tuple(TFDS_SPLITS.values()))
    if builder is None:
        raise UserError(
            f"COCO: {folder / TFDS} has no records of the splits train and validation.\n"
            "Prepare it: python -m tensorflow_datasets.scripts.cli.main build coco/2017 --file_format array_record"
        )
    annotated = {}
    for split, own in TFDS_SPLITS.items():
        source = tfds_named.Records(pathlib.Path(builder.data_path), own, "image")
        kept = f"{builder.info.full_name.replace('/', '-')}-{own}-objects"
        annotated[split] = boxed.Annotated(
            source, *decoded.kept(kept, source.files(), functools.partial(_rows, source))
        )
    return annotated, tuple(builder.info.features["objects"]["label"].names), []


def _rows(source: tfds_named.Records) -> list[np.ndarray]:
    """The last six fields of `data.boxed.Annotated`, by one pass over the records."""
    sizes, found = np.empty((len(source), 2), np.int64), [()] * len(source)

    def take(i: int, record) -> None:
        sizes[i] = picture.size(record["image"].bytes_list.value[0])
        lists = (record[f"objects/{key}"] for key in ("label", "is_crowd", "area"))
        bounds = np.array(record["objects/bbox"].float_list.value, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        found[i] = bounds * np.tile(sizes[i][::-1], 2), *(np.array(own.int64_list.value) for own in lists)

    picture.always_reading()
    source.every(take, "objects")
    boxes, labels, crowd, area = (np.concatenate(columns) for columns in zip(*found, strict=True))
    image = np.repeat(np.arange(len(source)), [len(own[0]) for own in found])
    return [sizes, image, boxes, labels.astype(np.int32), crowd.astype(bool), area.astype(np.float64)]
