"""Datasets: images as uint8 arrays with everything a run needs to know about them."""

import functools
import inspect

from data.batch import VIEWS, Batch, balanced_plan, balanced_subset, epoch_plan, fixed_views, make_batch
from data.dataset import Augmentation, Dataset, Split
from data.device_split import DeviceSplit
from data.pairs import ClassTable, class_partners, class_table
from registry import Registry, UserError

__all__ = [
    "VIEWS",
    "Augmentation",
    "Batch",
    "ClassTable",
    "Dataset",
    "DeviceSplit",
    "Split",
    "balanced_plan",
    "balanced_subset",
    "class_partners",
    "class_table",
    "epoch_plan",
    "fixed_views",
    "load",
    "make_batch",
    "names",
    "registry",
]

registry = Registry(
    "dataset",
    {
        "Digits": "data.digits:load",
        "MNIST": "data.tfds_source:load_mnist",
        "FashionMNIST": "data.tfds_source:load_fashion_mnist",
        "CIFAR10": "data.tfds_source:load_cifar10",
        "CIFAR100": "data.tfds_source:load_cifar100",
        "ImageFolder": "data.image_folder:load",
        "Shapes": "data.shapes:load",
    },
)
names = registry.names
KEYS = ("data_dir", "image_size", "channels", "skip_damaged")  # options of `load`


@functools.lru_cache(maxsize=2)
def load(name: str, data_dir: str = "", image_size: int = 0, channels: int = 0, skip_damaged: bool = False) -> Dataset:
    """Reads a dataset into host memory (kept for the next call with the same arguments).

    Args:
        name: one of `names()`.
        data_dir: its folder; empty means the source's default folder.
        image_size: side in pixels that ImageFolder resizes to; 0 means 32. The other datasets keep their own size.
        channels: of ImageFolder's images, 1 (grey) or 3 (RGB); 0 means 3.
        skip_damaged: ImageFolder leaves out, and counts, the images that cannot be read. Otherwise they are an error.

    Raises:
        UserError: unknown name, an option that the dataset has no use for, or no such data, with what to do.
    """
    loader = registry.get(name)
    options = {"image_size": image_size, "channels": channels, "skip_damaged": skip_damaged}
    taken = inspect.signature(loader).parameters
    for key, value in options.items():
        if value and key not in taken:
            flag = f"--{key}" if value is True else f"--{key} {value}"
            raise UserError(f"{flag} is for --dataset ImageFolder; {name} has no use for it. Leave it out.")
    return loader(data_dir=data_dir, **{key: value for key, value in options.items() if key in taken})
