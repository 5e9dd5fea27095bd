"""A trained network as explanations look at it: its answers and maps on many images, batch by batch."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import forward

BATCH = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network with its input statistics.

    Attributes:
        name: what tables and pictures call it.
        model: a linen Module.
        variables: `{"params", "batch_stats"}`.
        mean, std: per channel, of pixels in [0, 1].
    """

    name: str
    model: nn.Module
    variables: dict
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalised(self, images: np.ndarray) -> jax.Array:
        """Images [B, H, W, C] uint8 -> float32, as this network reads them."""
        return (jnp.asarray(images, jnp.float32) / 255.0 - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, K] and embeddings [N, D] (the logits again, where a network has no `embedding`) of images [N, H,
        W, C] uint8."""
        parts = [_answer(self.model, self.variables, x) for (x,) in self.batches(images)]
        return tuple(np.concatenate([np.asarray(part[i]) for part in parts])[: len(images)] for i in (0, 1))

    def maps(self, explanation: Callable, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Maps [N, H, W] float32 of `explanation` (model, variables, images, target) -> [B, H, W].

        Args:
            explanation: hashable and equal for equal settings, so that it is compiled once.
            images: [N, H, W, C] uint8.
            classes: [N] int, the class that is explained on each image.

        Raises:
            ValueError: maps that are not finite or not of the images' size.
        """
        parts = [_explain(explanation, self.model, self.variables, x, c) for x, c in self.batches(images, classes)]
        maps = np.concatenate([np.asarray(part, np.float32) for part in parts])[: len(images)]
        if maps.shape != images.shape[:3]:
            raise ValueError(f"The maps are {maps.shape[1:]}, the images {images.shape[1:3]}: resize the maps.")
        if not np.isfinite(maps).all():
            raise ValueError(f"The maps of {self.name} are not finite on {_count_bad(maps)} of {len(maps)} images.")
        return maps

    def batches(self, images: np.ndarray, *others: np.ndarray):
        """(normalised images, rows of each other array as int32) per batch, all batches of one size.

        The last batch repeats the last row to be full, so that one compiled function serves all; who collects the
        results cuts them at N.
        """
        if len(images) == 0 or any(len(other) != len(images) for other in others):
            raise ValueError(f"There must be images and one row for each; got {[len(images), *map(len, others)]}.")
        size = min(BATCH, len(images))
        for start in range(0, len(images), size):
            rows = np.minimum(np.arange(start, start + size), len(images) - 1)
            yield (self.normalised(images[rows]), *(jnp.asarray(other[rows], jnp.int32) for other in others))

    def replaced(self, variables: dict) -> "Subject":
        """The same network with other weights."""
        return dataclasses.replace(self, variables=variables)


def _count_bad(maps: np.ndarray) -> int:
    return int((~np.isfinite(maps)).any(axis=(1, 2)).sum())


@functools.partial(jax.jit, static_argnums=0)
def _answer(model, variables, images):
    outputs, _ = forward(model, variables, images)
    return outputs.logits, outputs.features.get("embedding", outputs.logits)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _explain(explanation, model, variables, images, classes):
    return explanation(model, variables, images, classes)
