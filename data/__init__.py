"""Datasets: images as uint8 arrays with everything a run needs to know about them."""

import functools
import inspect

from data.batch import VIEWS, Batch, balanced_plan, balanced_subset, epoch_plan, fixed_views, make_batch, withheld
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
    "options",
    "registry",
    "withheld",
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
        "ImageNet": "data.imagenet:load",
        "Shapes": "data.shapes:load",
    },
)
names = registry.names
KEYS = ("data_dir", "image_size", "channels", "skip_damaged", "resize", "interpolation")  # options of `load`


def options(name: str) -> list[str]:
    """The options of `load` that a dataset takes."""
    return [key for key in KEYS if key in inspect.signature(registry.get(name)).parameters]


@functools.lru_cache(maxsize=2)
def load(
    name: str,
    data_dir: str = "",
    image_size: int = 0,
    channels: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
) -> Dataset:
    """Reads a dataset into host memory. The last two datasets are kept for calls with the same arguments.

    Args:
        name: one of `names()`.
        data_dir: the dataset's folder; empty means the source's default folder.
        image_size: side in pixels of the images of ImageFolder (0 means 32) and ImageNet (0 means 224). The other
            datasets keep their own size.
        channels: of ImageFolder's images, 1 (grey) or 3 (RGB); 0 means 3.
        skip_damaged: ImageFolder leaves out the images that cannot be read, and counts them. Without this option such
            images are an error.
        resize: length of the resized short side in pixels; the centre is cropped from it. 0: ImageFolder does not keep
            the aspect, and ImageNet takes `image_size` / 0.875 (256 for 224).
        interpolation: "bilinear" or "bicubic"; empty means bilinear for ImageFolder and bicubic for ImageNet.

    Raises:
        UserError: the name is unknown, the dataset does not take an option, or the data are missing. The message has
            the fix.
    """
    loader, taken = registry.get(name), options(name)
    given = {"image_size": image_size, "channels": channels, "skip_damaged": skip_damaged}
    given |= {"resize": resize, "interpolation": interpolation}
    for key, value in given.items():
        if value and key not in taken:
            flag = f"--{key}" if value is True else f"--{key} {value}"
            users = " or ".join(other for other in names() if key in options(other))
            raise UserError(f"{flag} is for --dataset {users}; {name} has no use for it. Leave it out.")
    return loader(data_dir=data_dir, **{key: value for key, value in given.items() if key in taken})
