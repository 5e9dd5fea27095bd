"""Which object each anchor or proposal is trained on.

Paper: Ren, He, Girshick, Sun. Faster R-CNN. NeurIPS 2015. arXiv:1506.01497, section 3.1.2.
"""

import jax
import jax.numpy as jnp

BACKGROUND, BETWEEN = -1, -2


def match(iou: jax.Array, valid: jax.Array, high: float, low: float, low_quality: bool) -> jax.Array:
    """Matches each anchor with the object that it overlaps most.

    Args:
        iou: [..., G, A] float32, of G objects with A anchors.
        valid: [..., G] bool, the objects that exist. The others are padding.
        high: an anchor with this IoU or more is matched.
        low: an anchor with less is background. Between `low` and `high` an anchor is not trained on.
        low_quality: for each object, every anchor whose IoU is the object's largest is matched, too. The anchor is
            matched with the object that it overlaps most itself, which may be another. An object that no anchor
            overlaps has a largest IoU of 0, so every anchor with IoU 0 to it is matched, as in torchvision.

    Returns:
        [..., A] int32: the object's index (the first of equal ones), `BACKGROUND` or `BETWEEN`. Without any object all
        anchors are background.
    """
    iou = jnp.where(valid[..., None], iou, -1.0)
    best, index = jnp.max(iou, axis=-2), jnp.argmax(iou, axis=-2).astype(jnp.int32)
    found = jnp.where(best >= high, index, jnp.where(best < low, BACKGROUND, BETWEEN))
    if low_quality:
        largest = jnp.max(iou, axis=-1, keepdims=True)
        claimed = jnp.any((iou == largest) & valid[..., None], axis=-2)
        found = jnp.where(claimed, index, found)
    return found
