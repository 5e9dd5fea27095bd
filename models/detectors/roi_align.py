"""RoIAlign: a map of fixed size for every box, read from the level of a pyramid that fits the box's area.

Papers: He, Gkioxari, Dollar, Girshick. Mask R-CNN. ICCV 2017. arXiv:1703.06870; the level: Lin et al. Feature Pyramid
Networks for Object Detection. CVPR 2017. arXiv:1612.03144, equation 1. The numbers are those of torchvision's
detectors: 2 x 2 samples in each bin, and corners that are not shifted by half a position (`aligned=False`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.detectors.boxes import areas

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # a box of ImageNet's size belongs to the level of stride 16
SAMPLES = 2  # in a bin, along each axis


def level_of(boxes: jax.Array, first: int, count: int) -> jax.Array:
    """The level of each box, from 0.

    Args:
        boxes: [..., 4] in pixels of the image.
        first: number of the first level, whose stride is 2^first.
        count: levels.

    Returns:
        [...] int32; empty boxes are on the first level.
    """
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(jnp.sqrt(areas(boxes)) / CANONICAL_SIDE) + 1e-6)
    return jnp.clip(level, first, first + count - 1).astype(jnp.int32) - first


def roi_align(maps: Sequence[jax.Array], boxes: jax.Array, first: int, bins: int = 7) -> jax.Array:
    """Samples the maps inside boxes.

    Args:
        maps: levels [B, h, w, C], each with half of the resolution of the one before.
        boxes: [B, R, 4] float32 in pixels of the image. No gradient goes to the boxes.
        first: number of the first level, whose stride is 2^first.
        bins: rows and columns of the result.

    Returns:
        [B, R, bins, bins, C] in the type of the maps: the mean of a bin's samples, each interpolated between four
        positions. A sample more than one position outside of the map is 0.
    """
    boxes = jax.lax.stop_gradient(boxes)
    level = level_of(boxes, first, len(maps))
    flat = jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps], axis=1)
    starts = np.cumsum([0, *(x.shape[1] * x.shape[2] for x in maps[:-1])])
    rows, columns = (np.array([x.shape[axis] for x in maps]) for axis in (1, 2))
    corners = boxes / jnp.asarray([2.0 ** (first + i) for i in range(len(maps))])[level][..., None]
    start, stride = (jnp.asarray(own, jnp.int32)[level][..., None, None] for own in (starts, columns))
    down, right = (
        _samples(corners[..., 1 - axis], corners[..., 3 - axis], jnp.asarray(own, jnp.int32)[level], bins)
        for axis, own in enumerate((rows, columns))
    )
    image = jnp.arange(len(flat), dtype=jnp.int32)[:, None, None, None]
    total = 0.0
    for y, weight_y in down:
        for x, weight_x in right:
            values = flat[image, start + y[..., :, None] * stride + x[..., None, :]]
            total = total + values * (weight_y[..., :, None] * weight_x[..., None, :])[..., None]
    count, number, *_, channels = total.shape
    total = total.reshape(count, number, bins, SAMPLES, bins, SAMPLES, channels)
    return jnp.mean(total, axis=(3, 5)).astype(maps[0].dtype)


def _samples(low: jax.Array, high: jax.Array, positions: jax.Array, bins: int) -> list[tuple[jax.Array, jax.Array]]:
    """The samples along one axis.

    Args:
        low, high: [B, R], ends of the boxes in units of the map's positions.
        positions: [B, R] int32, rows or columns of the map.
        bins: of the result.

    Returns:
        (position, weight), each [B, R, bins * SAMPLES], of the two neighbours between which a sample lies.
    """
    last = (positions - 1)[..., None]
    number, sample = np.divmod(np.arange(bins * SAMPLES, dtype=np.float32), np.float32(SAMPLES))
    side = jnp.maximum(high - low, 1.0)[..., None] / bins  # of a bin
    at = low[..., None] + number * side + (sample + np.float32(0.5)) * side / SAMPLES
    inside = (at >= -1) & (at <= positions[..., None].astype(jnp.float32))
    at = jnp.clip(at, 0.0, last.astype(jnp.float32))
    before = jnp.floor(at).astype(jnp.int32)
    share = at - before.astype(jnp.float32)
    return [(before, jnp.where(inside, 1 - share, 0.0)), (jnp.minimum(before + 1, last), jnp.where(inside, share, 0.0))]
