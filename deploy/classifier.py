"""A trained classifier as a function: images -> probabilities, with the preprocessing of its weights."""

import jax
import jax.numpy as jnp
import numpy as np

from data import picture
from deploy.trained import Trained
from models import View


class Classifier(Trained):
    """A trained network with its preprocessing. Call it with images to get probabilities [N, K] float32."""

    def _form(self, info: dict) -> picture.Form:
        height, _, channels = info["image_shape"]
        resize, interpolation = info.get("resize", 0), info.get("interpolation") or "bilinear"
        self._view = View(height, resize, interpolation)
        return picture.Form(height, channels, resize, interpolation).check()

    def _answers(self, variables, images):
        return self.player.forward(variables, self._seen(images))[0].logits

    def _seen(self, images: jax.Array) -> jax.Array:
        """Images [N, H, W, C] uint8 as [N, size, size, C] float32 in [0, 1]."""
        pixels = images.astype(jnp.float32) / 255.0
        return pixels if pixels.shape[1:3] == (self.form.size,) * 2 else self._view(pixels)

    def fit(self, images: np.ndarray) -> np.ndarray:
        self._check(images)
        return np.asarray(jnp.round(self._seen(jnp.asarray(images)) * 255.0), np.uint8)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the network's class scores.

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
        return self._batches(images)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes the probabilities [N, K] float32 of the classes for images as in `logits`."""
        return np.asarray(jax.nn.softmax(self.logits(images), axis=-1))

    def found(self, paths):
        for good, images, unread in self.read(paths):
            yield good, self(images), unread
