"""The objects in each image: what labels are in data for detection."""

import jax
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

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes, as an array of class labels has them."""
        return self.scale.shape

    def __len__(self) -> int:
        return self.shape[0]
