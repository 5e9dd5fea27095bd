"""A trained network to explain, and a way to run programs with this network on many images, batch by batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import View, forward

BATCH = 100


@dataclasses.dataclass(frozen=True)
class Eye:
    """What a network sees of normalised images: they are resized as in training, between the statistics.

    Attributes:
        view: the size.
        mean, std: of the normalisation.
    """

    view: View
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Convert normalised images [B, H, W, C] to the network's size."""
        if not self.view.changes(images.shape):
            return images
        mean, std = jnp.asarray(self.mean, images.dtype), jnp.asarray(self.std, images.dtype)
        return (self.view(images * std + mean) - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network with the statistics of its input.

    Attributes:
        name: the network's name in tables and pictures.
        model: a linen Module.
        variables: `{"params", "batch_stats"}`.
        mean, std: mean and deviation of each input channel, for pixels in [0, 1].
        view: the size at which the network sees the images. Maps have the images' own size.
    """

    name: str
    model: nn.Module
    variables: dict
    mean: tuple[float, ...]
    std: tuple[float, ...]
    view: View = View()  # noqa: RUF009  # immutable

    @property
    def eye(self) -> Eye:
        """Normalised images -> what the network sees of them."""
        return Eye(self.view, tuple(self.mean), tuple(self.std))

    def normalised(self, images: np.ndarray) -> jax.Array:
        """Convert images [..., C] uint8 to normalised ones of the same size, float32."""
        return (jnp.asarray(images, jnp.float32) / 255.0 - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def collect(self, program: Callable, images: np.ndarray, *rows: np.ndarray) -> Any:
        """Run a program on all images, batch by batch, and join the results.

        All batches have one size, so a compiled program is compiled once. The last batch is filled up with copies of
        the last image, and the results of the copies are cut off.

        Args:
            program: (model, variables, images [B, H, W, C] float32 normalised, *rows [B, ...] int32) -> a pytree of
                arrays [B, ...].
            images: [N, H, W, C] uint8.
            *rows: arrays [N, ...] of integers.

        Returns:
            The program's pytree with NumPy arrays [N, ...].

        Raises:
            ValueError: no images, or an array without one row for each image.
        """
        if len(images) == 0 or any(len(row) != len(images) for row in rows):
            raise ValueError(f"Images and one row for each image are needed; got {[len(images), *map(len, rows)]}.")
        size, parts = min(BATCH, len(images)), []
        for start in range(0, len(images), size):
            index = np.minimum(np.arange(start, start + size), len(images) - 1)
            batch = self.normalised(images[index]), *(jnp.asarray(row[index], jnp.int32) for row in rows)
            parts.append(program(self.model, self.variables, *batch))
        return jax.tree.map(lambda *found: np.concatenate(found)[: len(images)], *parts)

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the network's outputs for images [N, H, W, C] uint8.

        Returns:
            (logits [N, K], embeddings [N, D]), float32. If the network has no tap `embedding`, the embeddings are the
            logits.
        """
        return self.collect(functools.partial(_answer, self.eye), images)

    def maps(self, explanation: Callable, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Compute explanation maps.

        Args:
            explanation: (model, variables, images, target) -> [B, H, W]. Hashable; equal explanations share one
                compiled program.
            images: [N, H, W, C] uint8.
            classes: [N] int, the class to explain for each image.

        Returns:
            [N, H, W] float32.

        Raises:
            ValueError: maps that are not finite or do not have the images' size.
        """
        program = functools.partial(_explain, explanation, self.eye)
        maps = self.collect(program, images, classes).astype(np.float32, copy=False)
        if maps.shape != images.shape[:3]:
            raise ValueError(f"The maps are {maps.shape[1:]}, the images {images.shape[1:3]}: resize the maps.")
        bad = int((~np.isfinite(maps)).any(axis=(1, 2)).sum())
        if bad:
            raise ValueError(f"The maps of {self.name} are not finite on {bad} of {len(maps)} images.")
        return maps

    def replaced(self, variables: dict) -> "Subject":
        """Return the same network with other weights."""
        return dataclasses.replace(self, variables=variables)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer(eye, model, variables, images):
    outputs, _ = forward(model, variables, eye(images))
    return outputs.logits, outputs.features.get("embedding", outputs.logits)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _explain(explanation, eye, model, variables, images, classes):
    maps = explanation(model, variables, eye(images), classes)
    return eye.view.back(maps, images.shape[1:3]) if eye.view.changes(images.shape) else maps
