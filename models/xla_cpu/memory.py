"""Makes XLA:CPU compute an array once, and not again for each operation that reads the array."""

import jax
import jax.numpy as jnp


def stored(x: jax.Array, *, when: str) -> jax.Array:
    """`x` / 1, which XLA:CPU writes to memory. The value does not change.

    XLA:CPU fuses an elementwise operation into every reader of its result, and so computes the operation once for each
    reader, together with everything since the last convolution. XLA never computes a division twice, so `x` is divided
    by 1. XLA removes a division by a 1 that it can see through, and turns a division by a scalar into a product. So
    the 1 is max(0 * x, 1), which is NaN where `x` is not finite.

    Args:
        x: any shape and type of floating-point numbers.
        when: "always": a derivative is taken, and the derivative by a kernel reads the convolution's input a second
            time. "evaluation": no derivative is taken, but each residual block would add up all blocks before it
            again. "training": no derivative is taken, so `x` itself is returned.
    """
    return x if when == "training" else x / jnp.maximum(0 * x, 1)
