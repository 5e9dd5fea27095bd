"""Learned parts that bring a student's feature map to the shape of a teacher's.

They live in training alone, so their batch norm has no running statistics: the batch's own are always used.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.spatial import adaptive_average_pool, as_map
from models.layers import Conv


class BatchNorm(nn.Module):
    """Batch norm by the batch's own statistics, over all axes but the last. Parameters `scale`, `bias` [C]."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(x.dtype)
        axes = tuple(range(x.ndim - 1))
        x = x - jnp.mean(x, axes)
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axes) + self.epsilon) * scale + bias


class Connector(nn.Module):
    """FitNet's regressor as the benchmarks build it: one convolution and batch norm, to a given shape.

    The convolution has size 1 where the resolution is the target's, size 3 and stride 2 where it is twice that, and is
    transposed (size 4, stride 2) where it is half. Where it is anything else the map is first pooled or repeated
    (`adaptive_average_pool`) and the size is 1; the benchmarks take a convolution of size 1 + the difference, which is
    one of 25 x 25 from 32 to 8, or refuse.

    Attributes:
        channels, height, width: of the result.
    """

    channels: int
    height: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] or tokens [B, N, D], any float type -> [B, height, width, channels] float32."""
        x, size = wide(as_map(x)), (self.height, self.width)
        rows, columns = x.shape[1:3]
        if (2 * rows, 2 * columns) == size:
            x = nn.ConvTranspose(self.channels, (4, 4), (2, 2), padding="SAME", use_bias=False, dtype=x.dtype)(x)
        elif (rows, columns) == (2 * self.height, 2 * self.width):
            x = Conv(self.channels, 3, 2, dtype=x.dtype)(x)
        else:
            x = x if (rows, columns) == size else adaptive_average_pool(x, *size)
            x = Conv(self.channels, 1, dtype=x.dtype)(x)
        return BatchNorm()(x)


def to_channels(x: jax.Array, channels: int) -> jax.Array:
    """[..., C] -> [..., channels] by a learned 1x1 convolution; `x` itself where C is `channels`.

    For use inside a module's compact call.
    """
    return x if x.shape[-1] == channels else Conv(channels, 1, dtype=x.dtype)(x)
