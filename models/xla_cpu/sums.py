"""Sums over pixels, axis by axis."""

import math

import jax
import jax.numpy as jnp


def _by_product(shape: tuple[int, ...]) -> bool:
    return shape[0] <= 32 and math.prod(shape) >= 2**16


def sum_over_pixels(x: jax.Array, *, lead: int) -> jax.Array:
    """[*lead, ..., C] -> [*lead, C], one axis at a time, which loses fewer digits too.

    XLA:CPU sums over all axes in one loop, channel by channel, which jumps through memory. That is half of a
    ResNet-20's time at batch 32. A barrier after each axis makes one loop of each. XLA splits a sum over an axis of
    more than 32 into windows, a loop of their own; a shorter batch axis would share the loop of the rows, and so a
    matrix product sums it. (A product takes longer to compile.)
    """
    total = x
    if not lead and _by_product(x.shape):
        total = (jnp.ones(x.shape[:1], x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    while total.ndim > lead + 1:
        total = jax.lax.optimization_barrier(jnp.sum(total, lead))
    return total
