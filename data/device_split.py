"""Splits on the devices: the training split with the order of an epoch, and the splits of the tests.

An update and a test read them and never write them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.batch import NETWORK, Batch, make_batch
from data.dataset import Augmentation, Dataset
from data.mixing import other
from data.pairs import ClassTable

LONG, TILE = 2**14, 128  # values


def row_shape(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape in which `FlatImages` stores one image."""
    values = math.prod(image_shape)
    return (values // TILE, TILE) if values > LONG and values % TILE == 0 else (values,)


@struct.dataclass
class FlatImages:
    """All images of a split on the devices, each as one row. Indexing gives images.

    A TPU stores an array in tiles of its last two axes. In [N, H, W, C] these axes are short, so a program that gathers
    images first copies all of them into another layout, in every call: 70 % of the time of a single update of
    ResNet-20 on CIFAR. Rows of H * W * C values need no such copy. A gather of very long rows would again pass over all
    images. So a row of more than `LONG` values has two axes, the second of the length of a TPU's tiles.

    Attributes:
        rows: [N, H * W * C] uint8, or [N, H * W * C / 128, 128].
        image_shape: (H, W, C); static.
    """

    rows: jax.Array
    image_shape: tuple[int, int, int] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, images: np.ndarray) -> "FlatImages":
        """The rows of `images` [N, H, W, C]; no copy if their memory is contiguous."""
        return cls(images.reshape(len(images), *row_shape(images.shape[1:])), images.shape[1:])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (self.rows.shape[0], *self.image_shape)

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, index: jax.Array) -> jax.Array:
        """The images [..., H, W, C] with the numbers `index` [...] int."""
        return self.rows[index].reshape(*index.shape, *self.image_shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Exam:
    """A split that networks are tested on.

    Attributes:
        name: "val" or "test".
        images: N images uint8, on the devices; or `data.streamed.StreamedImages`.
        labels: [N] int32, or `data.Objects`.
    """

    name: str
    images: Any
    labels: Any


@struct.dataclass
class DeviceSplit:
    """The training images and the order of the epoch.

    Attributes:
        images: N images uint8; None: the split is streamed.
        labels: [N] int32, -1 where withheld; or `data.Objects`.
        seed: int32 scalar.
        index, view: [1 + steps, B] int32, the epoch's plan (`data.epoch_plan`), a row for each step; row 0 is the last
            step of the previous epoch.
        classes: the table for views "partner"; None where no such view is asked for.
        bank: the teacher's logits for these views (`data.stored.DeviceBank`); None: the step runs the teacher.
        pictures: of a streamed split, the rows of one update: for each view [B, H, W, C] uint8 (`data.streamed`).
    """

    images: FlatImages | None
    labels: jax.Array
    seed: jax.Array
    index: jax.Array
    view: jax.Array
    classes: ClassTable | None = None
    bank: Any = None
    pictures: tuple[jax.Array, ...] | None = None

    @classmethod
    def shapes(cls, dataset: Dataset, steps: int, size: int, views: tuple[str, ...]) -> "DeviceSplit":
        """The shapes of a dataset's training split, in epochs of `steps` batches of `size` images, for some views."""
        shape, dtype, count = jax.ShapeDtypeStruct, jnp.int32, len(dataset.train)
        labels, order, number = shape((count,), dtype), shape((1 + steps, size), dtype), shape((), dtype)
        classes = ClassTable(*[labels] * 4) if "partner" in views else None
        if dataset.task == "detection":
            labels = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), dataset.train.labels)
        if dataset.streamed:
            pictures = (shape((size, *dataset.image_shape), jnp.uint8),) * len(views)
            return cls(None, labels, number, order, order, classes, None, pictures)
        images = FlatImages(shape((count, *row_shape(dataset.image_shape)), jnp.uint8), dataset.image_shape)
        return cls(images, labels, number, order, order, classes)

    def batch(
        self, step: jax.Array, augmentation: Augmentation, views: tuple[str, ...], second_label: Callable = other
    ) -> Batch:
        """The batch of update `step`, counted from the start of the run. `step` must lie in this epoch.

        Args:
            step: int32 scalar.
            augmentation, views, second_label: static, as in `make_batch`.
        """
        steps = self.index.shape[0] - 1
        position = step % steps
        batch = make_batch(
            self.images,
            self.labels,
            self.seed,
            self.index[position + 1],
            self.view[position + 1],
            (step // steps).astype(jnp.float32) + position.astype(jnp.float32) / steps,  # whole where an epoch begins
            augmentation,
            views,
            self.classes,
            (self.index[position], self.view[position]),
            second_label,
            self.pictures,
        )
        batch = batch.replace(key=jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), NETWORK), step))
        if self.bank is None:
            return batch
        return batch.replace(teacher_logits=self.bank.logits(self.view[position + 1], batch.index))
