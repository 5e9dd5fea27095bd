"""The feature pyramid: maps of one width on every level, each with the meaning of the levels above.

Paper: Lin, Dollar, Girshick, He, Hariharan, Belongie. Feature Pyramid Networks for Object Detection. CVPR 2017.
arXiv:1612.03144. As in torchvision, no convolution has a norm or an activation behind it.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Conv
from models.outputs import Taps

kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def upsampled(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, h, w, C] at twice the resolution by repeated pixels, cut to `size` (2 h or 2 h - 1 rows, columns alike)."""
    count, rows, columns, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (count, rows, 2, columns, 2, channels))
    x = x.reshape(count, 2 * rows, 2 * columns, channels)
    return jax.lax.slice_in_dim(jax.lax.slice_in_dim(x, 0, size[0], axis=1), 0, size[1], axis=2)


class FPN(nn.Module):
    """1x1 convolutions to `channels`, sums from the top down, a 3x3 convolution on each level; then coarser levels.

    Attributes:
        channels: of every map.
        extra: "convolutions": two more levels by 3x3 convolutions of stride 2, the second behind a ReLU (RetinaNet);
            "pool": one more level, every second row and column of the last one (Faster R-CNN).
        dtype: compute type.
    """

    channels: int
    extra: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], tap: Taps, first: int) -> list[jax.Array]:
        """Computes the pyramid.

        Args:
            maps: [B, H, W, C_i], each with half of the resolution of the one before.
            tap: records each level as `p{number}`.
            first: the number of the first level.

        Returns:
            The levels, from fine to coarse.
        """

        def conv(name, size, stride=1):
            fields = {"use_bias": True, "kernel_init": kaiming_uniform, "dtype": self.dtype, "name": name}
            return Conv(self.channels, size, stride, **fields)

        inner = [conv(f"lateral{i}", 1)(x) for i, x in enumerate(maps)]
        for i in reversed(range(len(inner) - 1)):
            inner[i] = inner[i] + upsampled(inner[i + 1], inner[i].shape[1:3])
        levels = [tap(f"p{first + i}", conv(f"output{i}", 3)(x)) for i, x in enumerate(inner)]
        next_level = first + len(levels)
        if self.extra == "pool":
            x = jax.lax.slice_in_dim(levels[-1], 0, None, 2, axis=1)
            return [*levels, tap(f"p{next_level}", jax.lax.slice_in_dim(x, 0, None, 2, axis=2))]
        levels.append(tap(f"p{next_level}", conv("p6", 3, 2)(levels[-1])))
        levels.append(tap(f"p{next_level + 1}", conv("p7", 3, 2)(nn.relu(levels[-1]))))
        return levels
