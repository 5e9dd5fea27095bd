"""ImageNet: 1,000 classes of photographs, from folders of pictures or as TensorFlow Datasets prepares it.

WNID is WordNet's number of a class, such as n01440764.
"""

import collections
import functools
import os
import pathlib
import re

import numpy as np

from data import picture
from data.dataset import Augmentation, Dataset, Split
from data.image_folder import class_files, left_out, walk
from data.pictures import Files, PictureSplit
from data.streamed import streams
from registry import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, SHARE = 224, 0.875  # side of the image in pixels, and as a share of the resized short side
LISTS = ("val.txt", "LOC_val_solution.csv", "val_annotations.txt")  # lines of a file's name and its class


@functools.cache
def classes() -> tuple[str, ...]:
    """The 1,000 classes in the order of the outputs: WordNet's number and first name, such as "n01440764 tench"."""
    return tuple(pathlib.Path(__file__).with_name("imagenet_classes.txt").read_text().splitlines())


def load(
    data_dir: str = "",
    image_size: int = 0,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """ImageNet's photographs, 1,000 classes: DATA_DIR/train/WNID/*.JPEG and DATA_DIR/val, or TFDS' imagenet2012.

    Source: Russakovsky et al., IJCV 2015, arXiv:1409.0575

    `val` has class folders, or all pictures and a list of their classes (`LISTS`) beside them or in DATA_DIR. The name
    of a class folder is WordNet's number (n01440764) or the number of the class (0 to 999). Some folders may be absent;
    without `train` networks can be measured. The short side is resized to `resize`, and the centre is cropped.

    Args:
        data_dir: the folder with `val` and `train`, or with `imagenet2012`.
        image_size: side in pixels; 0 means 224.
        resize: pixels of the short side; 0 means `image_size` / 0.875, which is 256 for 224.
        interpolation: Pillow's "bilinear" or "bicubic"; empty means bicubic.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint depends on the contents of the files.

    Raises:
        UserError: the folders do not have this layout. Damaged images raise `DamagedFileError` when they are read.
    """
    size, root = image_size or SIDE, pathlib.Path(data_dir).expanduser()
    form = picture.Form(size, 3, resize or round(size / SHARE), interpolation or "bicubic").check()
    if data_dir and (root / "imagenet2012").is_dir():
        from data import tfds_named

        return tfds_named.read("ImageNet", "imagenet2012", data_dir, form, loading, check_files, classes(), (MEAN, STD))
    if not data_dir or not (root / "val").is_dir():
        raise UserError(
            f"ImageNet needs --data_dir, a folder with val/WNID/*.JPEG, such as val/n01440764/; got '{data_dir}'.\n"
            "Training also needs train/WNID/*.JPEG. image-net.org has the archives (docs/data.md)."
        )
    notes: list[str] = []
    if (root / "train").is_dir():
        train, digest = _split(root, "train", form, notes, check_files)
    else:
        train, digest = Split.of(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int32)), ""
    test, its_digest = _split(root, "val", form, notes, check_files)
    streamed = streams(loading, len(train) + len(test), test.image_shape)
    return Dataset(
        name="ImageNet",
        train=train,
        test=test,
        class_names=classes(),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(flip=True),
        fingerprint=" ".join(filter(None, (digest, its_digest))),
        resize=form.resize,
        interpolation=form.interpolation,
        notes=tuple(notes),
        streamed=streamed,
    )


def _split(root: pathlib.Path, name: str, form: picture.Form, notes: list, check: bool) -> tuple[PictureSplit, str]:
    """(the split in the folder `name`, its fingerprint); adds lines to the report."""
    left = collections.defaultdict(list)
    with picture.reading():
        listed = next((path for path in _lists(root, name) if path.is_file()), None)
        found = listed_files(root, name, listed, left) if listed else class_files(root, name, left)
    number = {str(label): label for label in range(len(classes()))}
    number |= {own.partition(" ")[0]: label for label, own in enumerate(classes())}
    if strangers := sorted(found.keys() - number.keys()):
        what = f"The class {strangers[0]} in {listed}" if listed else f"{root}/{name}/{strangers[0]}"
        raise UserError(
            f"{what} is no class of ImageNet ({len(strangers)} such {'classes' if listed else 'folders'}).\n"
            "Classes have WordNet's numbers, such as n01440764, or their own, 0 to 999."
        )
    order = sorted(found, key=number.get)
    labels = np.repeat([number[own] for own in order], [len(found[own]) for own in order]).astype(np.int32)
    files = Files(root, (file for own in order for file in found[own]))
    notes += left_out(left)
    if len(found) < len(classes()):
        notes.append(f"{name} has images of {len(found)} of the {len(classes()):,} classes.")
    return PictureSplit("ImageNet", files, labels, form), files.fingerprint(check)


def _lists(root: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Where the list of a flat folder may be; none where the folder has sub-folders of classes."""
    if name == "train" or any(path.is_dir() and path.name != "images" for path in list((root / name).iterdir())):
        return []
    return [folder / own for own in LISTS for folder in (root / name, root)]


def listed_files(root: pathlib.Path, name: str, path: pathlib.Path, left: dict) -> dict[str, list[str]]:
    """Class -> the sorted paths of its pictures, by a list: each line has a file's name, then its class.

    Blanks, tabs or a comma stand between the two. What follows is not read. The name may lack its ending.
    """
    lines = [re.split(r"[,\s]+", line.strip()) for line in path.read_text().splitlines()]
    named = {line[0]: line[1] for line in lines if len(line) > 1}
    found, files = collections.defaultdict(list), sorted(walk(str(root), name, left))
    for file in files:
        own = pathlib.PurePath(file)
        if not picture.is_picture(os.path.join(root, file)):
            if own.name not in LISTS:
                left["files of no picture format that is read"].append(file)
        elif label := named.get(own.name) or named.get(own.stem):
            found[label].append(file)
        else:
            left[f"pictures that are not in {path.name}"].append(file)
    if not found:
        raise UserError(f"No picture in {root / name} is in the list {path}. A line has a file's name and its class.")
    return found
