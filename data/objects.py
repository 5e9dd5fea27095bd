"""The objects in each image: what labels are in data for detection."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

EMPTY = -1


@struct.dataclass
class Objects:
    """The objects of some images. Indexing gives those of other images, as with an array of class labels.

    Every image has G rows; a row without an object has the class -1. All leading axes are shown as [...]: [N] for a
    split, [B] for a batch, none for one image. NumPy or JAX arrays.

    Attributes:
        boxes: [..., G, 4] float32, (x1, y1, x2, y2) in pixels of the stored image.
        classes: [..., G] int32, from 0; -1: no object.
        crowd: [..., G] bool, a region of many objects. It is never a target, and detections in it are neither right nor
            wrong.
        area: [..., G] float32, the annotated area in pixels of the original image, which decides between small, medium
            and large.
        size: [..., 2] float32, height and width of the part of the stored image that is not padding. It begins at the
            left upper corner.
        scale: [...] float32, the stored image's size divided by the original's.
    """

    boxes: jax.Array
    classes: jax.Array
    crowd: jax.Array
    area: jax.Array
    size: jax.Array
    scale: jax.Array

    def __getitem__(self, index) -> "Objects":
        return jax.tree.map(lambda leaf: leaf[index], self)

    def moved(self, scale: jax.Array, shift: jax.Array, size: tuple[int, int]) -> "Objects":
        """The objects in views of their images, in which a place (x, y) has become scale * (x, y) + shift.

        An object whose centre is outside the view is no object of the view; the others are cut at its edges. `area` and
        `scale` stay those of the stored image: only tests read them, and tests move nothing.

        Args:
            scale, shift: [B, 2] float32 (`data.augment.placement`).
            size: height and width of the views.
        """
        corners = self.boxes.reshape(*self.boxes.shape[:-1], 2, 2) * scale[:, None, None] + shift[:, None, None]
        low, high = corners.min(axis=-2), corners.max(axis=-2)
        edge = jnp.array([size[1], size[0]], jnp.float32)
        centre = (low + high) / 2
        inside = jnp.all((centre >= 0) & (centre <= edge), axis=-1)
        boxes = jnp.concatenate([jnp.clip(low, 0, edge), jnp.clip(high, 0, edge)], axis=-1)
        sizes = jnp.broadcast_to(edge[::-1], self.size.shape)
        return self.replace(boxes=boxes, classes=jnp.where(inside, self.classes, EMPTY), size=sizes)

    @property
    def targets(self) -> jax.Array:
        """[..., G] bool: which rows are objects that a network shall find."""
        return (self.classes >= 0) & ~self.crowd

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes, as an array of class labels has them."""
        return self.scale.shape

    def __len__(self) -> int:
        return self.shape[0]


class Found(NamedTuple):
    """One object of an image, in the units of `Objects`: a box, its class, whether it is a crowd, its area."""

    box: Sequence[float]
    label: int
    crowd: bool
    area: float


def gathered(images: Sequence[Sequence[Found]], size: np.ndarray, scale: np.ndarray) -> Objects:
    """The objects of some images as arrays of NumPy.

    Args:
        images: the objects of each image.
        size, scale: [N, 2] and [N], as in `Objects`.
    """
    found = [found for own in images for found in own]
    image = np.repeat(np.arange(len(images)), [len(own) for own in images])
    columns = zip(*found, strict=True) if found else ([],) * len(Found._fields)
    return in_rows(image, *map(np.array, columns), size, scale)


def in_rows(image, boxes, classes, crowd, area, size, scale) -> Objects:
    """Objects that lie one after the other, as arrays with as many rows as the image with the most objects has.

    Args:
        image: [M] int, ascending: the image of each object.
        boxes, classes, crowd, area: [M, 4] and [M], as in `Objects`.
        size, scale: [N, 2] and [N], as in `Objects`.
    """
    place = image, np.arange(len(image)) - np.searchsorted(image, image)
    shape = len(scale), 1 + place[1].max(initial=0)  # a row at least, where no image has an object

    def rows(values, empty, kind, *more) -> np.ndarray:
        array = np.full((*shape, *more), empty, kind)
        array[place] = values.reshape(-1, *more)
        return array

    return Objects(
        boxes=rows(boxes, 0, np.float32, 4),
        classes=rows(classes, EMPTY, np.int32),
        crowd=rows(crowd, False, bool),
        area=rows(area, 0, np.float32),
        size=np.asarray(size, np.float32),
        scale=np.asarray(scale, np.float32),
    )
