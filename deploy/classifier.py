"""A trained network as a function: images -> probabilities, with the preprocessing of its weights."""

import os
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import pretrained
from data import picture
from data.dataset import IMAGES
from data.image_folder import decode_all
from models import View
from pretrained.players import player_of
from registry import UserError

BATCH = 64  # images of one call of the network; fewer images fill the next power of two


class Classifier:
    """A trained network with its preprocessing. Call it with images to get probabilities.

    Args:
        weights: what `pretrained.load` returned.
        arch: the network's name if its code is outside the library, as in `pretrained.players.player_of`.

    Attributes:
        class_names: in the order of the probabilities.
        form: the form that `read` brings pictures into.

    Raises:
        UserError: weights that do not fit their network, or a network of images that are no squares.
    """

    def __init__(self, weights: pretrained.Pretrained, arch: str = ""):
        info = weights.info
        height, width, channels = info["image_shape"]
        if height != width:
            raise UserError(f"The network in {weights.folder} sees {height}x{width} pixels; only squares are read.")
        self.weights, self.class_names = weights, tuple(info["class_names"])
        self.player, self.variables = player_of(weights, "network", arch=arch)
        resize, interpolation = info.get("resize", 0), info.get("interpolation") or "bilinear"
        self.form = picture.Form(height, channels, resize, interpolation).check()
        self._view = View(height, resize, interpolation)
        self._answer = jax.jit(lambda v, images: self.player.forward(v, self._seen(images))[0].logits)

    def _seen(self, images: jax.Array) -> jax.Array:
        """Images [N, H, W, C] uint8 as [N, size, size, C] float32 in [0, 1]."""
        pixels = images.astype(jnp.float32) / 255.0
        return pixels if pixels.shape[1:3] == (self.form.size,) * 2 else self._view(pixels)

    def fit(self, images: np.ndarray) -> np.ndarray:
        """Images [N, H, W, C] uint8 at the network's size, [N, size, size, C] uint8."""
        self._check(images)
        return np.asarray(jnp.round(self._seen(jnp.asarray(images)) * 255.0), np.uint8)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the network's class scores.

        All batches have one size: `BATCH`, or the power of two that holds all images if they are fewer. The last
        batch is filled up with copies of the last image.

        Args:
            images: [N, H, W, C] uint8. Images of the network's size are taken as they are; others are resized, and
                cropped, as in training.

        Returns:
            [N, K] float32.

        Raises:
            UserError: images of another type or number of channels.
        """
        images = np.asarray(images)
        self._check(images)
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        size, parts = min(BATCH, 1 << (len(images) - 1).bit_length()), []
        for first in range(0, len(images), size):
            rows = np.minimum(np.arange(first, first + size), len(images) - 1)
            parts.append(self._answer(self.variables, images[rows]))
        return np.concatenate(jax.device_get(parts))[: len(images)]

    def _check(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != self.form.channels:
            raise UserError(
                f"Images must be uint8 [N, H, W, {self.form.channels}], pixels from 0 to 255; "
                f"got {images.dtype} {list(images.shape)}."
            )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes the probabilities [N, K] float32 of the classes for images as in `logits`."""
        return np.asarray(jax.nn.softmax(self.logits(images), axis=-1))

    def read(self, paths: Sequence[str | os.PathLike]) -> Iterator[tuple[list[str], np.ndarray, dict[str, str]]]:
        """Reads picture files as ImageFolder reads them (docs/your_data.md), in blocks.

        Yields:
            (paths of the pictures, their pixels [M, size, size, C] uint8, path -> reason of the files that cannot be
            read).
        """
        paths = [os.fspath(path) for path in paths]
        for first in range(0, len(paths), IMAGES):
            block = paths[first : first + IMAGES]
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


def load(param: str | os.PathLike, arch: str = "") -> Classifier:
    """Reads trained weights.

    Args:
        param: a run folder, a folder with `weights.safetensors` and `model.json`, or `hf:OWNER/NAME` of the Hugging
            Face hub.
        arch: the network's name if its code is outside the library: "module:attribute".

    Returns:
        A function: images [N, H, W, C] uint8 -> probabilities [N, K] float32.

    Raises:
        UserError: there are no such weights, or they do not fit the network. DamagedFileError: a file is damaged.
    """
    weights = pretrained.load(param)
    if layers := weights.info.get("untrained"):
        text = f"no loss has trained {', '.join(layers)} of the network in {weights.folder}: its answers mean nothing."
        print(f"Warning: {text}", file=sys.stderr)
    return Classifier(weights, arch)
