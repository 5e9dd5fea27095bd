"""What all trained networks share as functions: the network, the form of its pictures, batches of one size."""

import abc
import os
from collections.abc import Iterator, Sequence

import jax
import numpy as np

import pretrained
from data import picture
from data.dataset import IMAGES
from data.image_folder import decode_all
from models import Player
from registry import UserError


class Trained(abc.ABC):
    """A trained network with its preprocessing.

    Args:
        weights: what `pretrained.load` returned.
        player, variables: the network, as `pretrained.players.player_of` returns it.

    Attributes:
        class_names: K names, in the network's order.
        form: the form that `read` brings pictures into.
        batch: images of one call of the network; fewer images fill the next power of two.
        block: pictures that `read` decodes at once.

    Raises:
        UserError: a network of images that are no squares.
    """

    batch, block = 64, IMAGES

    def __init__(self, weights: pretrained.Pretrained, player: Player, variables: dict):
        height, width, _ = weights.info["image_shape"]
        if height != width:
            raise UserError(f"The network in {weights.folder} sees {height}x{width} pixels; only squares are read.")
        self.weights, self.class_names = weights, tuple(weights.info["class_names"])
        self.player, self.variables = player, variables
        self.form = self._form(weights.info)
        self._answer = jax.jit(self._answers)

    @abc.abstractmethod
    def _form(self, info: dict):
        """The form of the pictures, by what model.json says."""

    @abc.abstractmethod
    def _answers(self, variables: dict, images: jax.Array) -> jax.Array:
        """What the network says of a batch of images uint8; compiled."""

    @abc.abstractmethod
    def __call__(self, images) -> np.ndarray:
        """What the network says of images uint8, one row for each."""

    @abc.abstractmethod
    def fit(self, images: np.ndarray) -> np.ndarray:
        """Images [N, H, W, C] uint8 at the network's size, [N, size, size, C] uint8."""

    @abc.abstractmethod
    def found(self, paths: Sequence[str | os.PathLike]) -> Iterator[tuple[list[str], np.ndarray, dict[str, str]]]:
        """Reads picture files and asks the network.

        Yields:
            (paths of the pictures; what a call returns for them; path -> reason of the files that cannot be read).
        """

    def _batches(self, images: np.ndarray) -> np.ndarray:
        """The answers for all images [N, ...] uint8. The last batch is filled up with copies of the last image."""
        if not len(images):
            shape = jax.eval_shape(self._answer, self.variables, np.zeros((1, *images.shape[1:]), np.uint8)).shape
            return np.zeros((0, *shape[1:]), np.float32)
        size, parts = min(self.batch, 1 << (len(images) - 1).bit_length()), []
        for first in range(0, len(images), size):
            rows = np.minimum(np.arange(first, first + size), len(images) - 1)
            parts.append(self._answer(self.variables, images[rows]))
        return np.concatenate(jax.device_get(parts))[: len(images)]

    def _check(self, images: np.ndarray, axes: int = 4) -> None:
        if images.dtype != np.uint8 or images.ndim != axes or images.shape[-1] != self.form.channels:
            wanted = ["N", "H", "W", str(self.form.channels)][4 - axes :]
            raise UserError(
                f"Images must be uint8 [{', '.join(wanted)}], pixels from 0 to 255; "
                f"got {images.dtype} {list(images.shape)}."
            )

    def read(self, paths: Sequence[str | os.PathLike]) -> Iterator[tuple[list[str], np.ndarray, dict[str, str]]]:
        """Reads picture files as the training's data are read (docs/your_data.md, docs/detection.md), in blocks.

        Yields:
            (paths of the pictures, their pixels [M, size, size, C] uint8, path -> reason of the files that cannot be
            read).
        """
        paths = [os.fspath(path) for path in paths]
        for first in range(0, len(paths), self.block):
            block = paths[first : first + self.block]
            images, present, _ = decode_all("", block, self.form, skip_damaged=True)
            bad = [path for path, there in zip(block, present, strict=True) if not there]
            good = [path for path, there in zip(block, present, strict=True) if there]
            yield good, images, {path: self._reason(path) for path in bad}

    def _reason(self, path: str) -> str:
        """Why a file cannot be read."""
        try:
            with picture.reading(truncated=True):
                picture.read(path, self.form, 65535)
        except picture.Unreadable as error:
            return str(error)
        return "it was unreadable a moment ago"
