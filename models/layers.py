"""Layers that the networks share: convolution, batch norm and the classifier, initialised as the references do."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A square convolution without bias, padded by (size - 1) / 2 on every side as PyTorch's reference networks are.

    (XLA's SAME pads a stride-2 convolution of an even input on one side only, which is another network.)
    Parameter `kernel` [size, size, C_in, features] float32, fan-out normal.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", fan_out_normal, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        pad = (self.size - 1) // 2
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            [(pad, pad), (pad, pad)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last; statistics are float32 whatever the compute type.

    Parameters `scale`, `bias` [C]; statistics `mean`, `var` [C], moved by `1 - momentum` a step. The variance kept is
    the batch's own (divided by n), as in Flax; PyTorch keeps n / (n - 1) times it.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(np.promote_types(x.dtype, np.float32))
        if train:
            axes = tuple(range(x.ndim - 1))
            batch_mean = jnp.mean(x, axes)
            batch_var = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(batch_mean), 0.0)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        factor = scale * jax.lax.rsqrt(batch_var + self.epsilon)
        return (x * factor + (bias - batch_mean * factor)).astype(self.dtype)


def uniform_fan_in(fan_in: int):
    """PyTorch's default for linear layers: uniform in +-1/sqrt(fan_in), kernel and bias alike."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nn.Module):
    """The classifier: [B, D] -> [B, features], in float32. Parameters `kernel` [D, features], `bias` [features]."""

    features: int

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return x.astype(jnp.float32) @ kernel + bias
