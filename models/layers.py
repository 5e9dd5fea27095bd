"""Layers that the networks share: convolution, batch norm and the classifier, initialised as the references do.

The references know three initialisations of a convolution: `kaiming_normal_(mode="fan_out")` (ResNet), a normal of
deviation sqrt(2 / (size^2 * out)) (WRN, VGG, MobileNetV2), which is the same thing, grouped or not: `fan_out_normal`;
and PyTorch's default (ShuffleNet, MobileNetV1): `default_uniform`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from models.narrow import convolve, convolve_narrow, pixels_a_row

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
small_normal = nn.initializers.normal(0.01)  # the linear layer of VGG and MobileNetV2


def uniform_fan_in(fan_in: int):
    """PyTorch's default for linear layers: uniform in +-1/sqrt(fan_in), kernel and bias alike."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def default_uniform(key, shape, dtype=jnp.float32):
    """PyTorch's default for convolutions: uniform in +-1/sqrt(size^2 * inputs of one output); shape is HWIO."""
    return uniform_fan_in(math.prod(shape[:-1]))(key, shape, dtype)


def parameter(module: nn.Module, name: str, init: Callable, shape: tuple[int, ...]) -> jax.Array:
    """`module.param`, float32; of one that is there already, no more than the shape is looked at.

    Flax traces its initialisation for that, which takes half of the time that tracing a network takes.

    Raises:
        flax.errors.ScopeParamShapeError: it has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value


def on_cpu() -> bool:
    """Whether what is being traced will run on a CPU, where XLA wants some things in other words."""
    return jax.default_backend() == "cpu"


@jax.custom_jvp
def stored(x: jax.Array) -> jax.Array:
    """`x`, in memory once where a derivative is taken.

    The derivative by a kernel reads its input transposed. XLA:CPU would compute the input anew for that, with all
    that leads to it since the last convolution; a division is what it never does twice. It keeps one by 1 as long as
    it does not know the 1, and the derivative is divided by it too.
    """
    return x


@stored.defjvp
def _stored_jvp(primals, tangents):
    one = jax.lax.rsqrt(jax.lax.optimization_barrier(jnp.ones((), primals[0].dtype)))
    return primals[0] / one, tangents[0] / one


@jax.custom_jvp
def kept(x: jax.Array) -> jax.Array:
    """`x`, what a residual block returns, in memory once where no derivative is taken.

    XLA:CPU would read all blocks before it again in each block, for a sum that is in memory already: the ReLU of it is
    what the next convolution reads. Here, too, a division keeps it from that, by a 1 that XLA cannot know (NaN where
    `x` is not finite).
    """
    return x / jnp.maximum(0 * x, 1) if on_cpu() else x


@kept.defjvp
def _kept_jvp(primals, tangents):
    return primals[0], tangents[0]


def _by_product(shape: tuple[int, ...]) -> bool:
    """Whether the images of a large `shape` are summed by a matrix product.

    XLA:CPU sums an axis of more than 32 in windows, in a loop of its own. Shorter ones become one loop with the sums
    over rows and columns, channel by channel, which jumps through memory: half of a ResNet-20's time at batch 32. (Not
    looked after: longer ones of which each of several devices has so few.) A product takes longer to compile.
    """
    return shape[0] <= 32 and math.prod(shape) >= 2**16


def mean_of_channels(x: jax.Array) -> jax.Array:
    """[..., C] -> [C], the mean over all axes but the last.

    On a CPU axis by axis, few images by a product: faster than XLA's sum over all axes, and fewer digits are lost. The
    barriers keep XLA from making one sum of them again.
    """
    if not on_cpu():
        return jnp.mean(x, tuple(range(x.ndim - 1)))
    total = x
    if _by_product(x.shape):
        total = (jnp.ones(x.shape[:1], x.dtype) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])
    for _ in total.shape[:-1]:
        total = jax.lax.optimization_barrier(jnp.sum(total, 0))
    return total / (x.size // x.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def to_all_pixels(c: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[C] -> `shape`, [..., C]; the sum that its derivative is, on a CPU as `mean_of_channels` takes it."""
    return jnp.broadcast_to(c, shape)


@to_all_pixels.defjvp
def _to_all_pixels_jvp(shape, primals, tangents):
    value, change = to_all_pixels(primals[0], shape), tangents[0]
    if not on_cpu():
        return value, jnp.broadcast_to(change, shape)
    for side in reversed(shape[1:-1]):
        change = jax.lax.optimization_barrier(jnp.broadcast_to(change, (side, *change.shape)))
    if _by_product(shape):
        return value, (jnp.ones((shape[0], 1), change.dtype) @ change.reshape(1, -1)).reshape(shape)
    return value, jnp.broadcast_to(change, shape)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`convolve` with as many groups as channels, as a sum of shifted products in float32.

    On CPU, where XLA runs such a convolution slowly and its derivatives more so (measured: 10 to 30 times).
    """
    size, (rows, columns) = kernel.shape[0], (-(-side // stride) for side in x.shape[1:3])
    pad, wide = (size - 1) // 2, np.promote_types(x.dtype, np.float32)
    padded = jnp.pad(x.astype(wide), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = None
    for i in range(size):
        for j in range(size):
            window = padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
            term = window * kernel[i, j, 0].astype(wide)
            total = term if total is None else total + term
    return total.astype(x.dtype)


def convolve_groups(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """`convolve` one group after the other: on CPU the derivatives are 5 to 10 times faster so."""
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    return jnp.concatenate([convolve(part, its_kernel, stride) for part, its_kernel in parts], axis=-1)


class Conv(nn.Module):
    """A square convolution, padded by (size - 1) / 2 on every side as PyTorch's reference networks are.

    (XLA's SAME pads a stride-2 convolution of an even input on one side only, which is another network.)
    Parameters `kernel` [size, size, C_in / groups, features] float32 and, with `use_bias`, `bias` [features], zero
    at first. `groups` = C_in makes it depthwise.
    """

    features: int
    size: int
    stride: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Any = fan_out_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = stored(x) if on_cpu() else x
        if on_cpu() and self.groups == self.stride == 1 and pixels_a_row(x.shape, kernel.shape) > 1:
            y = convolve_narrow(x, kernel)
        elif self.groups == 1 or not on_cpu():
            y = convolve(x, kernel, self.stride, self.groups)
        elif kernel.shape[2] == 1 and self.groups == self.features:
            y = convolve_depthwise(x, kernel, self.stride)
        else:
            y = convolve_groups(x, kernel, self.stride, self.groups)
        if self.use_bias:
            y = y + parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


@jax.custom_jvp
def held(value, marker):
    """`value`, a constant to the innermost derivative that `marker` belongs to, and to no other.

    `stop_gradient` would stop the derivatives around that one too: the training step's.
    """
    del marker
    return value


@held.defjvp
def _held_jvp(primals, tangents):
    return primals[0], jax.tree.map(jnp.zeros_like, primals[0])


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last; statistics are float32 whatever the compute type.

    With `deltas`, which are what `models.forward` differentiates by, the batch's statistics are constants of that
    derivative: the explanation of an image is that of a network with this normalisation, and no other image's answer
    gets into it. The gradient of a training step goes through the statistics as ever.

    Parameters `scale`, `bias` [C]; statistics `mean`, `var` [C], moved by `1 - momentum` a step. The variance kept is
    the batch's own (divided by n), as in Flax; PyTorch keeps n / (n - 1) times it. Where `models.folding` has moved
    everything but the bias into the layer before, only the bias is added.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool, deltas: dict | None = None):
        channels = x.shape[-1:]
        if not train and self.has_variable("params", "bias") and not self.has_variable("params", "scale"):
            wide = x.astype(np.promote_types(x.dtype, np.float32))
            return (wide + self.get_variable("params", "bias")).astype(self.dtype)
        scale = parameter(self, "scale", nn.initializers.ones, channels)
        bias = parameter(self, "bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(np.promote_types(x.dtype, np.float32))
        if train:
            batch_mean = mean_of_channels(x)
            batch_var = jnp.maximum(mean_of_channels(jnp.square(x)) - jnp.square(batch_mean), 0.0)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
            if deltas:
                batch_mean, batch_var = held((batch_mean, batch_var), deltas)
        else:
            batch_mean, batch_var = mean.value, var.value
        factor = scale * jax.lax.rsqrt(batch_var + self.epsilon)
        shift = bias - batch_mean * factor
        return (x * to_all_pixels(factor, x.shape) + to_all_pixels(shift, x.shape)).astype(self.dtype)


class Dense(nn.Module):
    """The classifier: [B, D] -> [B, features], in float32. Parameters `kernel` [D, features], `bias` [features].

    Without an initialiser of its own, kernel or bias gets PyTorch's default.
    """

    features: int
    kernel_init: Any = None
    bias_init: Any = None

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in(x.shape[-1])
        kernel = parameter(self, "kernel", self.kernel_init or init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", self.bias_init or init, (self.features,))
        return x.astype(jnp.float32) @ kernel + bias
