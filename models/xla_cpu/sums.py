"""Sums over pixels, axis by axis."""

import math

import jax
import jax.numpy as jnp


def _by_product(shape: tuple[int, ...]) -> bool:
    return shape[0] <= 32 and math.prod(shape) >= 2**16


def sum_over_pixels(x: jax.Array) -> jax.Array:
    """Sums [..., C] -> [C], one axis at a time. This also loses fewer digits.

    XLA:CPU sums over all axes in one loop, channel by channel, which jumps through memory. This loop takes half of a
    ResNet-20's time at batch 32. A barrier after each axis gives each axis its own loop. XLA splits a sum over an axis
    of more than 32 into windows, which get a loop of their own. A shorter batch axis would share the loop of the rows.
    So a matrix product sums a shorter batch axis, although a product takes longer to compile.
    """
    total = x
    if _by_product(x.shape):
        total = (jnp.ones(x.shape[:1], x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    while total.ndim > 1:
        total = jax.lax.optimization_barrier(jnp.sum(total, 0))
    return total
