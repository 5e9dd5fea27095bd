"""Boxes [..., 4] float32, (x1, y1, x2, y2) in pixels: areas, overlaps, the coding of boxes, clipping.

Paper: Girshick et al. Rich feature hierarchies for accurate object detection. CVPR 2014. arXiv:1311.2524 (the coding).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_LOG = math.log(1000 / 16)  # a decoded side is at most 62.5 times as long as the proposal's
SMALLEST_SIDE = 1e-3  # in pixels, of what `encode` divides by


def areas(boxes: jax.Array) -> jax.Array:
    """[..., 4] -> [...], in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a: [..., N, 4].
        b: [..., M, 4].

    Returns:
        [..., N, M] in [0, 1]; 0 for two empty boxes.
    """
    intersection, union = _overlap(a[..., :, None, :], b[..., None, :, :])
    return intersection / jnp.where(union > 0, union, 1.0)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(intersection, union) of boxes whose leading axes are broadcast."""
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    return intersection, areas(a) + areas(b) - intersection


def encode(reference: jax.Array, proposals: jax.Array, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> jax.Array:
    """The codes of boxes: the shift of the centre and the logarithm of the sides, relative to the proposal's sides.

    Args:
        reference: [..., 4], the boxes that are wanted.
        proposals: [..., 4], anchors or proposals.
        weights: factors of the four codes.

    Returns:
        [..., 4] float32. Finite for empty boxes (padding): a side counts as at least `SMALLEST_SIDE`.
    """
    (centre, sides), (own_centre, own_sides) = _centre_and_sides(reference), _centre_and_sides(proposals)
    sides, own_sides = jnp.maximum(sides, SMALLEST_SIDE), jnp.maximum(own_sides, SMALLEST_SIDE)
    codes = jnp.concatenate([(centre - own_centre) / own_sides, jnp.log(sides / own_sides)], axis=-1)
    return codes * np.asarray(weights, np.float32)


def decode(codes: jax.Array, proposals: jax.Array, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> jax.Array:
    """The boxes of codes.

    Args:
        codes: [..., 4], a network's answer. The logarithms of the sides are clipped from above at `LARGEST_LOG`.
        proposals: [..., 4]; leading axes are broadcast.
        weights: as in `encode`.

    Returns:
        [..., 4] float32, not clipped to the image.
    """
    codes = codes.astype(jnp.float32) / np.asarray(weights, np.float32)
    own_centre, own_sides = _centre_and_sides(proposals)
    centre = own_centre + codes[..., :2] * own_sides
    half = own_sides * jnp.exp(jnp.minimum(codes[..., 2:], LARGEST_LOG)) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _centre_and_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes cut to the image.

    Args:
        boxes: [..., N, 4].
        size: [..., 2] float32, (height, width) of each image.
    """
    width_height = size[..., None, ::-1]
    return jnp.clip(boxes, 0.0, jnp.concatenate([width_height, width_height], axis=-1))
