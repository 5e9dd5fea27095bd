"""Datasets and weights that have shapes and no content, to compile a run without the run's files.

A registry takes "module:attribute" in the place of a name, so `--dataset studies.stand_ins:cifar100` is a dataset here.
"""

import pathlib

import jax
import numpy as np

import data
import models
import pretrained
from registry import UserError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FULL, CROPPED = data.Augmentation(flip=True), data.Augmentation(pad=4, flip=True)


def cifar10(data_dir: str = "", image_size: int = 0) -> data.Dataset:
    """50,000 images of 32x32, or of `image_size`, in 10 classes; no content."""
    return _dataset("cifar10", 50_000, 10, image_size or 32)


def cifar100(data_dir: str = "", image_size: int = 0) -> data.Dataset:
    """50,000 images of 32x32, or of `image_size`, in 100 classes; no content."""
    return _dataset("cifar100", 50_000, 100, image_size or 32)


def tiny_imagenet(data_dir: str = "", image_size: int = 0) -> data.Dataset:
    """100,000 images of 64x64, or of `image_size`, in 200 classes; no content."""
    return _dataset("tiny_imagenet", 100_000, 200, image_size or 64)


def imagenet_part(data_dir: str = "", image_size: int = 0) -> data.Dataset:
    """50,000 images of 224x224, or of `image_size`, in 1,000 classes; no content. More does not fit on a v5e."""
    return _dataset("imagenet_part", 50_000, 1000, image_size or 224)


def _dataset(name: str, count: int, classes: int, side: int) -> data.Dataset:
    def read():
        raise UserError(
            f"The dataset {__name__}:{name} has shapes and no images: it can be compiled for, not trained on."
        )

    labels = tuple(map(str, range(classes)))
    split = data.Split(count, (side, side, 3), read)
    augmentation = CROPPED if side < 128 else FULL
    return data.Dataset(f"{__name__}:{name}", split, split, labels, MEAN, STD, augmentation)


def weights(folder: pathlib.Path, arch: str, dataset: str, image_size: int = 0, options: dict | None = None) -> str:
    """Writes weights of `arch` for a dataset, all ones, unless the folder has some. Returns the folder's path."""
    if not (folder / pretrained.WEIGHTS).is_file():
        facts = data.load(dataset, image_size=image_size)
        model = models.create(arch, facts.num_classes, **(options or {}))
        image = jax.ShapeDtypeStruct((1, *facts.seen_shape), np.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        variables = {name: dict(shapes.get(name, {})) for name in ("params", "batch_stats")}
        variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variables)
        info = {"arch": arch, "options": options or {}, "test_top1": None, **facts.info}
        pretrained.save(folder, variables, info)
    return str(folder)
