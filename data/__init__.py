"""Datasets: images as uint8 arrays with everything a run needs to know about them."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterable

from data.batch import (
    VIEWS,
    Batch,
    balanced_plan,
    balanced_subset,
    by_class,
    epoch_plan,
    fixed_views,
    make_batch,
    withheld,
)
from data.dataset import Augmentation, Dataset, Split, hold_out
from data.device_split import DeviceSplit, Exam, FlatImages
from data.pairs import ClassTable, class_partners, class_table
from data.plans import Plans, Sweep
from data.streamed import InMemory, Reader, Stream, StreamedImages, divided, feeds, streams
from registry import Registry, UserError

__all__ = [
    "VIEWS",
    "Augmentation",
    "Batch",
    "ClassTable",
    "Dataset",
    "DeviceSplit",
    "Exam",
    "FlatImages",
    "InMemory",
    "Plans",
    "Reader",
    "Split",
    "Stream",
    "StreamedImages",
    "Sweep",
    "balanced_plan",
    "balanced_subset",
    "by_class",
    "class_partners",
    "class_table",
    "divided",
    "epoch_plan",
    "feeds",
    "fixed_views",
    "hold_out",
    "load",
    "make_batch",
    "names",
    "options",
    "registry",
    "streams",
    "withheld",
]


class Datasets(Registry):
    """A registry with the prepared datasets of other libraries: "tfds:NAME" and "hf:NAME"."""

    def _own(self, name):
        library, _, own = name.partition(":")
        if library == "tfds":
            return functools.partial(importlib.import_module("data.tfds_named").load, own)
        if library == "hf":
            return functools.partial(importlib.import_module("data.hf_source").load, own)
        return super()._own(name)


registry = Datasets(
    "dataset",
    {
        "Digits": "data.digits:load",
        "MNIST": "data.tfds_source:load_mnist",
        "FashionMNIST": "data.tfds_source:load_fashion_mnist",
        "CIFAR10": "data.tfds_source:load_cifar10",
        "CIFAR100": "data.tfds_source:load_cifar100",
        "ImageFolder": "data.image_folder:load",
        "Images": "data.images:load",
        "ImageNet": "data.imagenet:load",
        "TinyImageNet": "data.tiny_imagenet:load",
        "Shapes": "data.shapes:load",
        "Scenes": "data.scenes:load",
        "COCO": "data.coco:load",
        "VOC": "data.voc:load",
    },
)
names = registry.names
KEYS = ("data_dir", "image_size", "channels", "skip_damaged", "resize", "interpolation", "val_split")  # of `load`
KEYS += ("loading", "check_files")
SIZES = ("image_size", "resize", "interpolation")  # of all datasets: read at that size, or resized inside the programs


def options(name: str) -> list[str]:
    """The options of `load` that a dataset takes."""
    return [key for key in KEYS if key in (*SIZES, "val_split", "loading") or key in _own(name)]


def _own(name: str) -> Iterable[str]:
    """The options of a dataset's own loader."""
    return inspect.signature(registry.get(name)).parameters


@functools.lru_cache(maxsize=2)
def load(
    name: str,
    data_dir: str = "",
    image_size: int = 0,
    channels: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
    val_split: float = 0.0,
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Reads a dataset into host memory, or only its index. The last two are kept for calls with the same arguments.

    What is said of the options of ImageFolder holds for Images, too.

    Args:
        name: one of `names()`.
        data_dir: the dataset's folder; empty means the source's default folder.
        image_size: side in pixels at which ImageFolder (0 means 32), ImageNet (0 means 224), TinyImageNet (0 means 64),
            COCO and VOC (0 means 640) and the datasets of other libraries read their pictures. The images of the other
            datasets stay as they are; the networks' programs resize them (`models.View`).
        channels: of ImageFolder's images, 1 (grey) or 3 (RGB); 0 means 3.
        skip_damaged: ImageFolder, COCO and VOC leave out the images that cannot be read, and count them. Without this
            option such images are an error.
        resize: length of the resized short side in pixels; the centre is cropped from it. 0: the aspect is not kept,
            and ImageNet takes `image_size` / 0.875 (256 for 224).
        interpolation: "bilinear" or "bicubic"; empty means bicubic for ImageNet and bilinear for the others.
        val_split: share of each class's training images that become the validation split (`hold_out`); 0: none.
        loading: "memory": the images are to be held in memory; "stream": they are to be read batch by batch; "auto":
            "stream" if they need more than `data.streamed.LIMIT` bytes.
        check_files: the fingerprint of pictures in files depends on their contents, not only on names and sizes.

    Raises:
        UserError: the name is unknown, the dataset does not take an option, or the data are missing. The message has
            the fix.
    """
    loader, taken = registry.get(name), _own(name)
    given = {"image_size": image_size, "channels": channels, "skip_damaged": skip_damaged}
    given |= {"resize": resize, "interpolation": interpolation, "check_files": check_files}
    for key, value in given.items():
        if value and key not in options(name):
            flag = f"--{key}" if value is True else f"--{key} {value}"
            users = " or ".join(other for other in names() if key in options(other))
            raise UserError(f"{flag} is for --dataset {users}; {name} has no use for it. Leave it out.")
    given["loading"] = loading
    dataset = loader(data_dir=data_dir, **{key: value for key, value in given.items() if key in taken})
    if "loading" not in taken:
        count = sum(len(split) for split in (dataset.train, *dataset.exams.values()))
        dataset = dataclasses.replace(dataset, streamed=streams(loading, count, dataset.image_shape))
    if "image_size" not in taken and (image_size or resize or interpolation):
        dataset = _seen_at(dataset, image_size, resize, interpolation)
    return hold_out(dataset, val_split) if val_split else dataset


def _seen_at(dataset: Dataset, image_size: int, resize: int, interpolation: str) -> Dataset:
    """A dataset in memory whose images the networks' programs resize."""
    from data import picture

    if dataset.task == "detection":
        if dataset.image_shape[:2] == (image_size, image_size) and not resize:
            return dataset
        flag = f"--image_size {image_size}" if image_size else f"--resize {resize}" if resize else "--interpolation"
        raise UserError(f"{flag}: boxes of {dataset.name} belong to images of their own size.\nLeave {flag} out.")
    if not image_size:
        flag = f"--resize {resize}" if resize else f"--interpolation {interpolation}"
        raise UserError(f"{flag}: images of {dataset.name} keep their size. Add --image_size, or leave it out.")
    height, width, channels = dataset.image_shape
    if height == width == image_size and not resize:
        return dataset
    picture.Form(image_size, channels, resize, interpolation or "bilinear").check()
    changes = {"image_size": image_size, "resize": resize, "interpolation": interpolation or "bilinear"}
    return dataclasses.replace(dataset, **changes)
