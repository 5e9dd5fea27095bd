"""Splits on the devices: the training split with the order of an epoch, and the splits of the tests.

An update and a test read them and never write them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.batch import NETWORK, Batch, make_batch
from data.dataset import Augmentation
from data.mixing import other
from data.pairs import ClassTable


@dataclasses.dataclass(frozen=True, eq=False)
class Exam:
    """A split that networks are tested on.

    Attributes:
        name: "val" or "test".
        images: [N, H, W, C] uint8, on the devices; or `data.streamed.StreamedImages`.
        labels: [N] int32.
    """

    name: str
    images: Any
    labels: np.ndarray


@struct.dataclass
class DeviceSplit:
    """The training images and the order of the epoch.

    Attributes:
        images: [N, H, W, C] uint8; None: the split is streamed.
        labels: [N] int32, -1 where withheld.
        seed: int32 scalar.
        index, view: [1 + steps, B] int32, the epoch's plan (`data.epoch_plan`), a row for each step; row 0 is the last
            step of the previous epoch.
        classes: the table for views "partner"; None where no such view is asked for.
        bank: the teacher's logits for these views (`data.stored.DeviceBank`); None: the step runs the teacher.
        pictures: of a streamed split, the rows of one update: for each view [B, H, W, C] uint8 (`data.streamed`).
    """

    images: jax.Array | None
    labels: jax.Array
    seed: jax.Array
    index: jax.Array
    view: jax.Array
    classes: ClassTable | None = None
    bank: Any = None
    pictures: tuple[jax.Array, ...] | None = None

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
