"""ImageNet's validation images, to measure networks on: `val/WNID/*.JPEG`. The training split is empty.

WNID is WordNet's number of a class, such as n01440764.
"""

import collections
import functools
import hashlib
import os
import pathlib

import numpy as np

from data import picture
from data.dataset import Augmentation, Dataset, FileSplit, Split
from data.image_folder import class_files, decode_all, left_out
from registry import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, SHARE = 224, 0.875  # side of the image in pixels, and as a share of the resized short side


def classes() -> tuple[str, ...]:
    """The 1,000 classes in the order of the outputs: WordNet's number and first name, such as "n01440764 tench"."""
    return tuple(pathlib.Path(__file__).with_name("imagenet_classes.txt").read_text().splitlines())


def load(data_dir: str = "", image_size: int = 0, resize: int = 0, interpolation: str = "") -> Dataset:
    """ImageNet's validation photographs, 1,000 classes, to evaluate networks on: DATA_DIR/val/WNID/*.

    Source: Russakovsky et al., IJCV 2015, arXiv:1409.0575

    The name of a class folder is WordNet's number (n01440764) or the number of the class (0 to 999). Some folders may
    be absent. Images are read a block at a time. The short side is resized to `resize`, and the centre is cropped.

    Args:
        data_dir: the folder with `val`.
        image_size: side in pixels; 0 means 224.
        resize: pixels of the short side; 0 means `image_size` / 0.875, which is 256 for 224.
        interpolation: Pillow's "bilinear" or "bicubic"; empty means bicubic.

    Raises:
        UserError: the folders do not have this layout. Damaged images raise `DamagedFileError` when they are read.
    """
    size, root = image_size or SIDE, pathlib.Path(data_dir).expanduser()
    form = picture.Form(size, 3, resize or round(size / SHARE), interpolation or "bicubic").check()
    if not data_dir or not (root / "val").is_dir():
        raise UserError(
            f"ImageNet needs --data_dir, a folder with val/WNID/*.JPEG, such as val/n01440764/; got '{data_dir}'."
        )
    files, labels, notes = _list(root)
    decode = functools.partial(decode_all, str(root), form=form, name="ImageNet")
    digest = hashlib.sha256(repr([form, *((file, os.path.getsize(root / file)) for file in files)]).encode())
    return Dataset(
        name="ImageNet",
        train=Split.of(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int32)),
        test=FileSplit(labels, (size, size, 3), lambda rows: decode(files=[files[row] for row in rows])[0]),
        class_names=classes(),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(flip=True),
        fingerprint=digest.hexdigest(),
        resize=form.resize,
        interpolation=form.interpolation,
        notes=notes,
    )


def _list(root: pathlib.Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """(paths of the pictures from the root, by class; their labels [N] int32; the lines of the report)."""
    left = collections.defaultdict(list)
    with picture.reading():
        found = class_files(root, "val", left)
    number = {str(label): label for label in range(len(classes()))}
    number |= {name.partition(" ")[0]: label for label, name in enumerate(classes())}
    if strangers := sorted(found.keys() - number.keys()):
        raise UserError(
            f"{root}/val/{strangers[0]} is no class of ImageNet ({len(strangers)} such folders).\n"
            "Name the folders by WordNet's numbers, such as n01440764, or by the class's, 0 to 999."
        )
    pairs = [(file, number[name]) for name in sorted(found, key=number.get) for file in found[name]]
    notes = left_out(left)
    if len(found) < len(classes()):
        notes.append(f"val has images of {len(found)} of the {len(classes()):,} classes.")
    return [file for file, _ in pairs], np.asarray([label for _, label in pairs], np.int32), tuple(notes)
