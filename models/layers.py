"""Layers that the networks share: convolution, batch norm and the classifier, with the references' initialisation.

A network's reference is the PyTorch network that it follows. References initialise a convolution in two ways.
`fan_out_normal` is normal with deviation sqrt(2 / (size^2 * out)), grouped or not (WRN, VGG, MobileNetV2; the ResNets'
`kaiming_normal_(mode="fan_out")` is the same). `default_uniform` is PyTorch's default (ShuffleNet, MobileNetV1).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from models import ops, quantization
from registry import UserError

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
    """`module.param` in float32. If the parameter exists, only its shape is compared.

    Flax itself checks the shape by tracing the initialiser. That takes half of the time of tracing a network.

    Raises:
        flax.errors.ScopeParamShapeError: the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value


def convolve_same(convolve: Callable, x: jax.Array) -> jax.Array:
    """A convolution of stride 2 with XLA's SAME padding: an even side gets one zero more at the end than at the start.

    `convolve`, [B, H, W, C] -> [B, H', W', features], pads both ends alike. With one more zero at the start, its
    windows are SAME's windows and one before them. The output of that first window is dropped.
    """
    rows, columns = (1 - side % 2 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (rows, 0), (columns, 0), (0, 0)))
    y = convolve(x)
    # `y[:, rows:]` would be a gather in a program for any batch size
    return jax.lax.slice_in_dim(jax.lax.slice_in_dim(y, rows, None, axis=1), columns, None, axis=2)


class Conv(nn.Module):
    """A square convolution, padded by (size - 1) / 2 on every side as PyTorch's reference networks are.

    With padding="SAME" a convolution of stride 2 has XLA's SAME padding, as networks of TensorFlow and Flax have. The
    two differ if the input has an even side.
    Parameters `kernel` [size, size, C_in / groups, features] float32 and, with `use_bias`, `bias` [features].
    `groups` = C_in makes the convolution depthwise.
    """

    features: int
    size: int
    stride: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Any = fan_out_normal
    dtype: Any = jnp.float32
    padding: str = "TORCH"
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        if self.padding not in ("TORCH", "SAME"):
            raise UserError(f"'padding' is TORCH or SAME; got {self.padding!r}.")
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        x, kernel = quantization.operands(self, x.astype(self.dtype), kernel)

        def convolve(x):
            return ops.convolve(x, kernel.astype(self.dtype), self.stride, self.groups)

        same = self.padding == "SAME" and self.stride == 2
        y = convolve_same(convolve, x) if same else convolve(x)
        if self.use_bias:
            y = y + parameter(self, "bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


@jax.custom_jvp
def held(value, marker):
    """Returns `value`. Only the innermost derivative with respect to `marker` treats it as a constant.

    With `stop_gradient`, `value` would also be a constant of the outer derivatives, such as the training step's.
    """
    del marker
    return value


@held.defjvp
def _held_jvp(primals, tangents):
    return primals[0], jax.tree.map(jnp.zeros_like, primals[0])


_groups = jax.make_user_context(1)


def batch_norm_groups(count: int):
    """Context in which a batch norm in training takes the statistics of each of `count` groups, not of the batch.

    A group is one of `count` equal parts of the batch, with consecutive rows. If the rows of a batch lie on `count`
    devices, or sets of devices, each of these takes the statistics of its own rows.
    """
    return _groups(count)


def each_group(function: Callable, x: jax.Array) -> tuple:
    """Calls a function on each group of rows of `x` [B, ...] (`batch_norm_groups`).

    Args:
        function: rows [b, ...] -> (one result a row [b, ...], a tree of statistics of the rows).
        x: the number of groups divides B.

    Returns:
        (the results of all rows [B, ...], the means of the statistics over the groups).
    """
    if _groups.value == 1:
        return function(x)
    y, statistics = jax.vmap(function)(x.reshape(_groups.value, -1, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:]), jax.tree.map(lambda own: jnp.mean(own, 0), statistics)


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last; statistics are float32 whatever the compute type.

    `models.forward` differentiates with respect to `deltas`. The batch's statistics are constants of that derivative,
    so the explanation of an image does not depend on the logits of other images. The gradient of a training step goes
    through the statistics as usual.

    Parameters `scale`, `bias` [C]; statistics `mean`, `var` [C], moved by `1 - momentum` a step. The running variance
    averages the batch's variance (divided by n), as in Flax; PyTorch's is n / (n - 1) times as large. After
    `models.folding` only the bias is left, and only the bias is added, in the type of the input: a GPU's compiler puts
    that sum and the ReLU behind it into the convolution's own kernel.

    Within `batch_norm_groups` each group of rows has statistics of its own, and their means move `mean` and `var`.

    With `frozen`, training normalises by the running statistics, and parameters and statistics are constants.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    frozen: bool = False

    @nn.compact
    def __call__(self, x, train: bool, deltas: dict | None = None):
        channels = x.shape[-1:]
        if not train and self.has_variable("params", "bias") and not self.has_variable("params", "scale"):
            return (x + self.get_variable("params", "bias").astype(x.dtype)).astype(self.dtype)
        scale = parameter(self, "scale", nn.initializers.ones, channels)
        bias = parameter(self, "bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(np.promote_types(x.dtype, np.float32))
        if train and self.frozen:
            scale, bias = jax.lax.stop_gradient((scale, bias))

        def by(statistics, x):
            factor = scale * jax.lax.rsqrt(statistics[1] + self.epsilon)
            shift = bias - statistics[0] * factor
            return (x * ops.spread(factor, x.shape) + ops.spread(shift, x.shape)).astype(self.dtype)

        def by_its_own(x):
            batch_mean = ops.mean(x)
            batch_var = jnp.maximum(ops.mean(jnp.square(x)) - jnp.square(batch_mean), 0.0)
            own = batch_mean, batch_var
            return by(held(own, deltas) if deltas else own, x), own

        if not train or self.frozen:
            return by((mean.value, var.value), x)
        y, (batch_mean, batch_var) = each_group(by_its_own, x)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y


def checked_rate(name: str, rate: float) -> float:
    """`rate`, a probability in [0, 1) that training drops something.

    Raises:
        UserError: `rate`, the network's option `name`, is no such probability.
    """
    if not 0 <= rate < 1:
        raise UserError(f"'{name}' is a probability: at least 0 and below 1; got {rate!r}.")
    return rate


def depth_rates(largest: float, blocks: int) -> list[float]:
    """The rates of stochastic depth of `blocks` blocks: linear, 0 in the first block and `largest` in the last.

    Raises:
        UserError: `largest`, the network's option `stochastic_depth`, is outside [0, 1).
    """
    largest = checked_rate("stochastic_depth", largest)
    return [largest * number / max(blocks - 1, 1) for number in range(blocks)]


def branch_dropped(branch: jax.Array, rate: float, train: bool) -> jax.Array:
    """Stochastic depth: in training each row of a residual branch is zero with probability `rate`.

    Paper: Huang, Sun, Liu, Sedra, Weinberger. Deep Networks with Stochastic Depth. ECCV 2016. arXiv:1603.09382.

    Args:
        branch: [B, ...], before it is added to the shortcut.
        rate: in [0, 1); static. The rows that stay are divided by 1 - rate, so that evaluation has nothing to scale.
        train: static; False returns `branch`.

    Returns:
        The shape of `branch`. Draws from the stream "dropout" where `train` and `rate` are not 0.
    """
    if not (train and rate):
        return branch
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, branch.ndim)), deterministic=False)(branch)


class Dense(nn.Module):
    """A linear layer: [..., D] -> [..., features]. Parameters `kernel` [D, features], `bias` [features].

    A classifier computes in float32, whatever the compute type of the network. An initialiser None means PyTorch's
    default.
    """

    features: int
    kernel_init: Any = None
    bias_init: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in(x.shape[-1])
        kernel = parameter(self, "kernel", self.kernel_init or init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", self.bias_init or init, (self.features,))
        x, kernel = quantization.operands(self, x.astype(self.dtype), kernel)
        return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)
