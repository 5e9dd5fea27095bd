"""Datasets: images as uint8 arrays with everything a run needs to know about them."""

import functools

from data.batch import VIEWS, Batch, balanced_subset, epoch_plan, fixed_views, make_batch
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


@functools.lru_cache(maxsize=2)
def load(name: str, data_dir: str = "", image_size: int = 0) -> Dataset:
    """Reads a dataset into host memory (kept for the next call with the same arguments).

    Args:
        name: one of `names()`.
        data_dir: where it lies; empty means the source's default place.
        image_size: side in pixels that ImageFolder resizes to; 0 means 32. The other datasets keep their own size.

    Raises:
        UserError: unknown name, or no such data there, with what to do.
    """
    if image_size and name != "ImageFolder":
        raise UserError(
            f"--image_size {image_size} is for --dataset ImageFolder; {name} has a size of its own. Leave it out."
        )
    return registry.get(name)(data_dir=data_dir, image_size=image_size)
