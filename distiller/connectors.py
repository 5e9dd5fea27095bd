"""Connectors: learned layers that bring a student's feature map to the shape of a teacher's.

Connectors are used in training only. Their batch norm therefore uses the batch's own statistics and keeps no running
averages.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.normalised import batch_normalised
from distiller.spatial import adaptive_average_pool, as_map
from models.layers import Conv, each_group


class BatchNorm(nn.Module):
    """Batch norm by the batch's own statistics, over all axes but the last. Parameters `scale`, `bias` [C]."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(x.dtype)
        return each_group(lambda x: (batch_normalised(x, self.epsilon), ()), x)[0] * scale + bias


class ConvNorm(nn.Module):
    """A convolution without bias, then `BatchNorm`: [B, H, W, C] -> [B, H, W, features].

    Attributes:
        features: channels of the result.
        size: side of the kernel.
        kernel_init: by default PyTorch's kaiming_uniform_(a=1), as in ReviewKD's code.
    """

    features: int
    size: int = 1
    kernel_init: object = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

    @nn.compact
    def __call__(self, x):
        return BatchNorm()(Conv(self.features, self.size, kernel_init=self.kernel_init, dtype=x.dtype)(x))


class Connector(nn.Module):
    """FitNet's regressor as the benchmarks build it: one convolution and batch norm, to a given shape.

    The convolution depends on the resolution of the map, compared with the target's:
    - equal: size 1.
    - twice the target's: size 3, stride 2.
    - half the target's: a transposed convolution, size 4, stride 2.
    - any other: `adaptive_average_pool` first pools or repeats the map to the target's resolution; then size 1. In this
      case the benchmarks have a convolution of size 1 + the difference (25 x 25 from 32 to 8), or raise an error.

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
    """[..., C] -> [..., channels] by a learned 1x1 convolution; returns `x` unchanged if C is `channels`.

    Call this function inside a module's compact call.
    """
    return x if x.shape[-1] == channels else Conv(channels, 1, dtype=x.dtype)(x)
