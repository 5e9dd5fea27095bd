"""XLA:CPU is kept from computing an array again for each operation that reads it."""

import jax
import jax.numpy as jnp


def stored(x: jax.Array, *, when: str) -> jax.Array:
    """`x` / 1. XLA never computes a division twice, so the quotient is written to memory. The value does not change.

    XLA:CPU fuses an elementwise operation into every operation that reads its result, and so computes it once for each
    of them, together with everything since the last convolution. It removes a division by a 1 that it can see through,
    and makes a product of a division by a scalar. So the 1 is max(0 * x, 1), which is NaN where `x` is not finite.

    "always", where a derivative is taken: the derivative by a kernel reads the convolution's input a second time.
    "evaluation", where no derivative is taken: each residual block would add up all blocks before it again.
    """
    return x if when == "training" else x / jnp.maximum(0 * x, 1)
