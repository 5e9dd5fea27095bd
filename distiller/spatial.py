"""Two networks' feature maps side by side: pairs of stages, and one resolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from models import stages
from models.vit import token_map


def as_map(feature: jax.Array) -> jax.Array:
    """A feature map [B, H, W, C] as it is; a transformer's tokens [B, N, D] as the square map of its patches.

    Leading tokens that make no square (class, distillation) are left out.
    """
    if feature.ndim != 3:
        return feature
    return token_map(feature, extra_tokens=feature.shape[1] - math.isqrt(feature.shape[1]) ** 2)


def stage_pairs(student: dict, teacher: dict, suffix: str = "") -> list[tuple[jax.Array, jax.Array]]:
    """Pairs every stage of the shallower network with one of the deeper.

    Equal numbers of stages pair in order. Of the network with more stages, evenly spread ones are taken, and the last
    stages always pair: for 3 and 4 stages the pairs are (1, 1), (2, 2), (3, 4).

    Args:
        student, teacher: `Outputs.features`.
        suffix: "" for the stages' outputs, "_preact" for the taps before their last ReLU.

    Raises:
        ValueError: a network that has no such taps.
    """
    s, t = stages(student, suffix), stages(teacher, suffix)
    for who, found, features in (("student", s, student), ("teacher", t, teacher)):
        if not found:
            raise ValueError(
                f"The {who} has no taps stage1{suffix} ...; it has {sorted(features) or 'logits only'}. "
                "Take a network that has them (docs/models.md) or a method that asks for others."
            )
    n = min(len(s), len(t))

    def spread(found):
        return [found[(i + 1) * len(found) // n - 1] for i in range(n)]

    return list(zip(spread(s), spread(t), strict=True))


def adaptive_average_pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Average-pools [B, H, W, C] to [B, height, width, C]; cells as in PyTorch's adaptive pooling, any two sizes.

    Cell i of n averages positions floor(i * N / n) up to, not including, ceil((i + 1) * N / n).
    """
    rows, columns = _pooling_matrix(x.shape[1], height), _pooling_matrix(x.shape[2], width)
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def _pooling_matrix(size: int, cells: int) -> np.ndarray:
    """[cells, size] float32, rows sum to 1."""
    matrix = np.zeros((cells, size), np.float32)
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def match_resolution(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average-pools the larger of two maps [B, H, W, C] (each axis by itself) to the smaller one's size.

    Tokens [B, N, D] become maps by `as_map`.
    """
    a, b = as_map(a), as_map(b)
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])

    def fit(x):
        return x if x.shape[1:3] == (height, width) else adaptive_average_pool(x, height, width)

    return fit(a), fit(b)
