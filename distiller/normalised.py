"""Preparing features for a comparison: unit length, batch normalisation, a learned projection.

All results and their gradients are finite, also where features are zero or equal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from distiller.base import wide
from models import stages
from models.layers import uniform_fan_in


def unit(x: jax.Array, axis: int | tuple[int, ...] = -1, smallest: float = 1e-12) -> jax.Array:
    """`x` divided by its L2 norm over `axis`; zero, with zero gradient, where the norm is at most `smallest`."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    alive = square > smallest**2
    return x * jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, square, 1)), 0)


def batch_normalised(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """(x - mean) / deviation of every channel. Mean and deviation (divided by n) are over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    centred = x - jnp.mean(x, axes)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axes) + epsilon)


def flat(feature: jax.Array) -> jax.Array:
    """[B, ...] -> [B, D] float32 (float64 stays)."""
    return wide(feature).reshape(feature.shape[0], -1)


def embedding(outputs, who: str) -> jax.Array:
    """The embedding [B, D] float32 (float64 stays) of the "student" or the "teacher".

    Raises:
        ValueError: the network has no tap `embedding`.
    """
    if "embedding" not in outputs.features:
        raise ValueError(f"The {who} has no tap 'embedding'; it has {sorted(outputs.features) or 'logits only'}.")
    return flat(outputs.features["embedding"])


def last_stages(outputs, who: str, count: int = 1) -> list[jax.Array]:
    """The last `count` stage outputs of the "student" or the "teacher", in depth order.

    Raises:
        ValueError: the network has fewer stages.
    """
    found = stages(outputs.features)
    if len(found) < count:
        raise ValueError(f"The {who} has {len(found)} taps stage1, ...; the method needs at least {count}.")
    return found[-count:]


class Linear(nn.Module):
    """[..., C] -> [..., features]; computes in the type of its input. PyTorch's default initialisation.

    Parameters `kernel` [C, features] and, with `use_bias`, `bias` [features], float32.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in(x.shape[-1])
        y = x @ self.param("kernel", init, (x.shape[-1], self.features), jnp.float32).astype(x.dtype)
        if self.use_bias:
            y = y + self.param("bias", init, (self.features,), jnp.float32).astype(x.dtype)
        return y


def off_diagonal(size: int) -> np.ndarray:
    """[size, size] bool, False on the diagonal: pairs of two different examples."""
    return ~np.eye(size, dtype=bool)
