"""A trained detector as a function: images -> boxes with classes and scores, in pixels of the images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data import picture
from data.boxed import Letterbox
from deploy.trained import Trained
from models.detectors.boxes import decode
from models.detectors.detections import ROI_WEIGHTS
from models.outputs import Outputs

BORDERLINE = 0.01  # share of the objects that `apart` leaves out


class Detector(Trained):
    """A trained network with its preprocessing. Call it with images to get detections [N, D, 6] float32.

    A row of the detections is (x1, y1, x2, y2, score, class), by falling score. Boxes are in pixels of the image as it
    is given. Where there is no object, the row is (0, 0, 0, 0, 0, -1).
    """

    batch, block = 8, 64

    def _form(self, info: dict) -> Letterbox:
        return Letterbox(info["image_shape"][0], info.get("interpolation") or "bilinear")

    def _answers(self, variables, images):
        outputs, _ = self.player.forward(variables, images.astype(jnp.float32) / 255.0)
        return self.player.model.found(outputs)

    def fit(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images [H, W, 3] uint8 of any sizes at the network's size: the long side fills it, the rest is padding."""
        images = [np.asarray(image) for image in images]
        for image in images:
            self._check(image, axes=3)
        squares = [picture.square(Image.fromarray(image), self.form) for image in images]
        return np.asarray(squares, np.uint8).reshape(-1, self.form.size, self.form.size, 3)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Finds the objects in images.

        Args:
            images: [N, H, W, 3] uint8, or N images [H, W, 3] uint8 of any sizes.

        Returns:
            [N, D, 6] float32.

        Raises:
            UserError: images of another type or number of channels.
        """
        return self._unscaled(self._batches(self.fit(images)), [image.shape[:2] for image in images])

    def found(self, paths):
        for good, squares, unread in self.read(paths):
            with picture.reading():
                sizes = [picture.size(path) for path in good]
            yield good, self._unscaled(self._batches(squares), sizes), unread

    def _unscaled(self, rows: np.ndarray, sizes: list[tuple[int, int]]) -> np.ndarray:
        """Rows with boxes in pixels of the squares as rows in pixels of images of these sizes, cut at their edges."""
        sizes = np.asarray(sizes, np.float32).reshape(-1, 1, 2)
        boxes = rows[..., :4] * (sizes.max(axis=-1, keepdims=True) / self.form.size)
        return np.concatenate([np.clip(boxes, 0, np.tile(sizes[..., ::-1], 2)), rows[..., 4:]], axis=-1)


def decoded(outputs: Outputs) -> jax.Array:
    """The boxes of a detector's outputs in pixels, neither clipped nor suppressed.

    Returns:
        RetinaNet: [B, A, 4], a box for each anchor. Faster R-CNN: [B, P, K + 1, 4], a box for each proposal and class.
    """
    features = outputs.features
    if "proposals" in features:
        return decode(features["boxes"], features["proposals"][:, :, None], ROI_WEIGHTS)
    return decode(features["boxes"], features["anchors"])


def apart(own: np.ndarray, found: np.ndarray) -> float:
    """How far two programs' detections [N, D, 6] of the same images are apart.

    Rounding may exchange two rows of almost equal scores. So each object is compared with the nearest one of its class
    in the other program's answer for the image. Rounding may also decide for or against an object at a limit: of the
    score, or of the overlap in the suppression. So the share `BORDERLINE` of the objects, the farthest ones, is left
    out; of fewer than 100 objects, none.

    Returns:
        The largest distance: of scores, and of the sides of boxes relative to the largest number in `own`. Infinity for
        an object without a partner, and for other shapes; NaN for numbers that are no numbers.
    """
    if own.shape != found.shape:
        return float("inf")
    unit, distances = max(float(np.abs(own).max()), 1e-30), [np.zeros(0)]
    for pair in zip(own, found, strict=True):
        a, b = (rows[~(rows[:, 5] < 0)] for rows in pair)
        far = np.abs(a[:, None, :5] - b[None, :, :5]) / np.array([unit] * 4 + [1.0])
        far = np.where((a[:, None, 5] == b[None, :, 5]) | np.isnan(b[None, :, 5]), far.max(axis=-1), np.inf)
        distances += [far.min(axis=axis, initial=np.inf) for axis in (0, 1)]
    distances = np.concatenate(distances)
    return float(np.quantile(distances, 1 - BORDERLINE, method="higher")) if len(distances) else 0.0
