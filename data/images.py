"""Images: a folder of images without labels, for distillation from a trained teacher (docs/your_data.md)."""

import collections
import hashlib
import itertools
import os
import pathlib

import numpy as np

from data import picture
from data.batch import UNLABELLED
from data.dataset import Augmentation, Dataset, Split, channel_statistics
from data.image_folder import SKIPS, STREAMED, composed, left_out, read_all, walk
from data.pictures import Files, PictureSplit
from data.streamed import streams
from registry import DamagedFileError, UserError

HELD_OUT = 10  # one in so many images is held out
KEY = 2410  # of the choice, which no seed changes


def load(
    data_dir: str = "",
    image_size: int = 0,
    channels: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Your own images without labels: all pictures under DATA_DIR, resized to --image_size.

    Source: --data_dir

    Sub-folders are read, and their names mean nothing. A tenth of the images is held out as the test split: there the
    student is compared with the teacher. The choice depends on the sorted names alone. The classes are the teacher's.
    The other rules are those of ImageFolder.

    Args:
        data_dir: the folder.
        image_size: side in pixels; 0 means 32.
        channels: 3 for RGB, 1 for grey; 0 means 3.
        skip_damaged: leave pictures out that cannot be read.
        resize: pixels of the short side, of which the centre is cropped; 0 means that the aspect is not kept.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint of a streamed folder depends on the contents of its files.

    Raises:
        UserError: no folder, or fewer than two pictures in it.
        DamagedFileError: pictures that cannot be read; all of them with the reason.
    """
    form = picture.Form(image_size or 32, channels or 3, resize, interpolation or "bilinear").check()
    root, left = pathlib.Path(data_dir).expanduser(), collections.defaultdict(list)
    if not data_dir or not root.is_dir():
        raise UserError(f"Images needs --data_dir, a folder of pictures; got '{data_dir}'.")
    files, others = [], left["files of no picture format that is read"]
    with picture.reading():
        for file in walk(str(root), "", left):
            (files if picture.is_picture(os.path.join(root, file)) else others).append(file)
    if len(files) < 2:
        raise UserError(f"Images: {root} has {len(files)} pictures; two at least are needed, of which one is held out.")
    files = sorted(files, key=lambda file: (composed(file), file))
    held_out = chosen(len(files))
    files = [*itertools.compress(files, ~held_out), *itertools.compress(files, held_out)]
    facts = {"resize": form.resize, "interpolation": form.interpolation, "labelled": False, "class_names": ()}
    facts["augmentation"] = Augmentation(pad=max(1, form.size // 8), flip=True)
    if streams(loading, len(files), (form.size, form.size, form.channels)):
        return _streamed(root, files, len(files) - int(held_out.sum()), form, skip_damaged, check_files, left, facts)
    images, present, said = read_all("Images", root, files, form, skip_damaged)
    first = int(present[: len(files) - held_out.sum()].sum())  # held-out images stand behind: a view costs no copy
    if not 0 < first < len(images):
        raise DamagedFileError(f"Images: all {'held-out' if first else 'training'} pictures of {root} are damaged.")
    splits = [Split.of(part, np.full(len(part), UNLABELLED, np.int32)) for part in (images[:first], images[first:])]
    mean, std = channel_statistics(images[:first])
    digest = hashlib.sha256(f"{first} ".encode())
    digest.update(images)
    return Dataset(
        name="Images",
        train=splits[0],
        test=splits[1],
        mean=mean,
        std=std,
        fingerprint=digest.hexdigest(),
        notes=(*left_out(left), *said.tolist()),
        **facts,
    )


def _streamed(root, files, first, form, skip_damaged, check_files, left, facts) -> Dataset:
    """The dataset of pictures that stay in their files; the first `first` of them are the training images."""
    if skip_damaged:
        raise UserError(SKIPS)
    source = Files(root, files)
    rows = np.arange(first), np.arange(first, len(files))
    splits = [PictureSplit("Images", source, np.full(len(own), UNLABELLED, np.int32), form, own) for own in rows]
    mean, std = splits[0].statistics()
    return Dataset(
        name="Images",
        train=splits[0],
        test=splits[1],
        mean=mean,
        std=std,
        fingerprint=f"{first} {source.fingerprint(check_files)}",
        notes=(*left_out(left), STREAMED),
        streamed=True,
        **facts,
    )


def chosen(count: int) -> np.ndarray:
    """Which of `count` images are held out: [count] bool, a tenth and at least one of them."""
    held_out = np.zeros(count, bool)
    held_out[np.random.default_rng((KEY, count)).permutation(count)[: max(1, count // HELD_OUT)]] = True
    return held_out
