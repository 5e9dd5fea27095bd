"""Datasets: images as uint8 arrays with everything a run needs to know about them."""

import functools

from data.batch import Batch, balanced_subset, epoch_plan, make_batch
from data.dataset import Augmentation, Dataset, Split
from registry import Registry

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "Split",
    "balanced_subset",
    "epoch_plan",
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
    return registry.get(name)(data_dir=data_dir, image_size=image_size)
