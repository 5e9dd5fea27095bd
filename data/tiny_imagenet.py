"""Tiny-ImageNet: 200 classes of photographs of 64x64 pixels, in the layout of the official archive."""

import collections
import pathlib

import numpy as np

from data import picture
from data.dataset import Augmentation, Dataset
from data.image_folder import class_files, left_out
from data.imagenet import listed_files
from data.pictures import Files, PictureSplit
from data.streamed import streams
from registry import UserError

SIDE = 64
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)  # the distillation benchmark's
FOLDERS = "tiny-imagenet-*"  # where `train` and `val` may lie in DATA_DIR
LIST = "val_annotations.txt"


def load(
    data_dir: str = "",
    image_size: int = 0,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Tiny-ImageNet: 100,000 photographs of 200 classes, 64x64, 3 channels; `val`, 10,000 images, is the test split.

    Source: Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip

    DATA_DIR is the folder `tiny-imagenet-200` as the archive unpacks, or the folder around it: `train/WNID/images/*`,
    `val/images/*` with `val/val_annotations.txt`, and `words.txt`. Fewer classes are allowed. The classes are sorted by
    WordNet's numbers. The official test split has no labels and is not read.

    Args:
        data_dir: the folder.
        image_size: side in pixels at which the pictures are read; 0 means 64.
        resize: pixels of the short side, of which the centre is cropped; 0: the whole picture.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint depends on the contents of the files.

    Raises:
        UserError: the folder does not have this layout. Damaged images raise `DamagedFileError` when they are read.
    """
    form = picture.Form(image_size or SIDE, 3, resize, interpolation or "bilinear").check()
    above = pathlib.Path(data_dir).expanduser()
    places = [above, *sorted(above.glob(FOLDERS))] if data_dir else []
    root = next((place for place in places if (place / "train").is_dir() and (place / "val" / LIST).is_file()), None)
    if root is None:
        raise UserError(
            f"TinyImageNet needs --data_dir, the unpacked tiny-imagenet-200 with train/ and val/{LIST}; got "
            f"'{data_dir}'.\nTo get it: wget http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip it"
        )
    left = collections.defaultdict(list)
    with picture.reading():
        train = class_files(root, "train", left)
        test = listed_files(root, "val", root / "val" / LIST, left)
    left.pop("files of no picture format that is read", None)  # WNID_boxes.txt, the annotations
    order = sorted(train)
    if strangers := sorted(test.keys() - train.keys()):
        raise UserError(f"{root / 'val' / LIST} has the class {strangers[0]}, which is not in {root / 'train'}.")
    words = root / "words.txt"
    lines = words.read_text().splitlines() if words.is_file() else []
    names = {wnid: name.split(",")[0] for wnid, _, name in (line.partition("\t") for line in lines)}
    splits, digests = [], []
    for found in (train, test):
        labels = np.repeat(np.arange(len(order)), [len(found.get(own, ())) for own in order]).astype(np.int32)
        files = Files(root, (file for own in order for file in found.get(own, ())))
        splits.append(PictureSplit("TinyImageNet", files, labels, form, any_size=False))
        digests.append(files.fingerprint(check_files))
    return Dataset(
        name="TinyImageNet",
        train=splits[0],
        test=splits[1],
        class_names=tuple(f"{own} {names[own]}" if own in names else own for own in order),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(pad=form.size // 8, flip=True),
        fingerprint=" ".join(digests),
        resize=form.resize,
        interpolation=form.interpolation if (image_size or resize) else "",
        notes=tuple(left_out(left)),
        streamed=streams(loading, sum(map(len, splits)), splits[0].image_shape),
    )
