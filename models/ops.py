"""The operations that networks are made of, each with a plain function that a platform can replace.

XLA compiles some plain operations to slow programs on some platforms. An `Operation` is a JAX primitive with one plain
function for all platforms; `Operation.words` registers another function for one platform. JAX chooses between them when
it lowers a program, not when it traces one. So `jax.jit(f).trace(x).lower(lowering_platforms=("tpu",))` gives the TPU's
program on a machine without a TPU. `models/xla_cpu` has the functions for CPUs.

Every `Operation` is linear in each of its arrays. Its derivatives of any order are operations, too, and a platform can
replace them. Under `vmap` an operation becomes its plain function: training uses `vmap` to stack seeds, and only
accelerators stack seeds by default.
"""

import functools
import os
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_plain = jax.make_user_context(os.environ.get("KD_CPU_TUNING") == "0")


def plain():
    """Context in which traced programs contain JAX's own operations alone, on every platform.

    Exporters and quantisers need that. KD_CPU_TUNING=0 in the environment does the same for a whole process.
    """
    return _plain(True)


class Operation:
    """A function of arrays that a platform can replace by its own.

    Args:
        name: of the primitive in a jaxpr.
        plain: (*arrays, **params) -> array, in JAX's operations; the params are hashable.
    """

    def __init__(self, name: str, plain: Callable):
        self.plain, self.primitive = plain, Primitive(name)
        self.primitive.def_impl(lambda *arrays, **params: _compiled(self.primitive, **params)(*arrays))
        self.primitive.def_abstract_eval(lambda *avals, **params: _result(plain, *avals, **params))
        mlir.register_lowering(self.primitive, mlir.lower_fun(plain, multiple_results=False))
        batching.primitive_batchers[self.primitive] = self._mapped

    def _mapped(self, arrays, axes, **params):
        return jax.vmap(functools.partial(self.plain, **params), axes)(*arrays), 0

    def words(self, platform: str, function: Callable) -> None:
        """Registers the `function` that replaces `plain` in programs for `platform` ("cpu")."""
        mlir.register_lowering(self.primitive, mlir.lower_fun(function, multiple_results=False), platform=platform)

    def __call__(self, *arrays: jax.Array, **params) -> jax.Array:
        return self.plain(*arrays, **params) if _plain.value else self.primitive.bind(*arrays, **params)


@functools.cache
def _compiled(primitive, **params):
    return jax.jit(functools.partial(primitive.bind, **params))


@functools.cache
def _result(function, *avals, **params):
    return jax.make_jaxpr(functools.partial(function, **params))(*avals).out_avals[0]


# Convolution. The sum of output * convolve(input, kernel) is linear in each of its three arrays. Its derivative by one
# of them is a function of the other two. One operation computes all three derivatives: its parameter `of` names the
# array that it returns. The derivatives of each are the other two, so the operation is closed under differentiation.

ROLES = ("input", "kernel", "output")


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """[B, H, W, C] by [size, size, C / groups, features] of the same dtype, padded by (size - 1) / 2 on every side."""
    x = STORED(x, when="training")
    return CONVOLUTION(x, kernel, of="output", wanted=None, stride=stride, groups=groups)


def xla_convolve(x: jax.Array, kernel: jax.Array, stride: int | tuple[int, int] = 1, groups: int = 1) -> jax.Array:
    """`convolve` as XLA's own convolution. `stride` may be a pair (rows, columns)."""
    strides, pad = (stride, stride) if isinstance(stride, int) else stride, (kernel.shape[0] - 1) // 2
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, [(pad, pad)] * 2, dimension_numbers=axes, feature_group_count=groups
    )


def third(function: Callable, of: str, wanted, first: jax.Array, second: jax.Array) -> jax.Array:
    """Computes the array in the role `of` from the arrays in the other two roles.

    Args:
        function: (input, kernel) -> output, a convolution.
        of: a role.
        wanted: the abstract value (shape and dtype) of the array in that role; None for "output".
        first, second: the other two arrays, in the order of `ROLES`.
    """
    if of == "output":
        return function(first, second)
    if of == "input":
        return jax.linear_transpose(lambda x: function(x, first), wanted)(second)[0]
    return jax.linear_transpose(lambda kernel: function(first, kernel), wanted)(second)[0]


def _xla_convolution(first, second, *, of, wanted, stride, groups):
    return third(functools.partial(xla_convolve, stride=stride, groups=groups), of, wanted, first, second)


CONVOLUTION = Operation("convolution", _xla_convolution)


def _by_operand(number: int):
    def rule(cotangent, first, second, *, of, wanted, **params):
        del wanted
        roles = [role for role in ROLES if role != of]
        known = {of: cotangent, roles[1 - number]: (second, first)[number]}
        operands = [known[role] for role in ROLES if role in known]
        return CONVOLUTION(*operands, of=roles[number], wanted=(first, second)[number].aval, **params)

    return rule


ad.defbilinear(CONVOLUTION.primitive, _by_operand(0), _by_operand(1))


# The sum over all pixels and the broadcast to all pixels are each other's derivatives.


def mean(x: jax.Array) -> jax.Array:
    """[..., C] -> [C], the mean over all axes but the last."""
    return SUM(x) / (x.size // x.shape[-1])


def spread(c: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[C] -> `shape`, [..., C]: the same for all pixels."""
    return SPREAD(c, shape=shape)


def _xla_sum(x):
    return jnp.sum(x, tuple(range(x.ndim - 1)))


def _xla_spread(c, *, shape):
    return jax.lax.broadcast_in_dim(c, shape, (len(shape) - 1,))


SUM, SPREAD = Operation("sum_over_pixels", _xla_sum), Operation("spread_over_pixels", _xla_spread)
ad.deflinear2(SUM.primitive, lambda cotangent, x: [SPREAD(cotangent, shape=x.aval.shape)])
ad.deflinear2(SPREAD.primitive, lambda cotangent, c, *, shape: [SUM(cotangent)])


# A mark on an array that is read often. The plain function does nothing; a platform may write the array to memory.


def kept(x: jax.Array) -> jax.Array:
    """Returns `x`, the output of a residual block, with a mark that it is read often."""
    return STORED(x, when="evaluation")


STORED = Operation("stored", lambda x, *, when: x)


def _stored_jvp(primals, tangents, *, when):
    """`when` says when `x` is stored: "evaluation" (no derivative is taken), "training" (one is taken) or "always"."""
    if when == "evaluation":
        return primals[0], tangents[0]
    (x,), (change,) = primals, tangents
    stored = functools.partial(STORED, when="always")
    return stored(x), change if type(change) is ad.Zero else stored(change)


ad.primitive_jvps[STORED.primitive] = _stored_jvp
ad.primitive_transposes[STORED.primitive] = lambda cotangent, x, *, when: [
    cotangent if type(cotangent) is ad.Zero else STORED(cotangent, when=when)
]


# Pooling. Exporters know Flax's functions by their keywords, and drop padding in silence. So `plain` pads first.


def max_pool(x: jax.Array, size: int, stride: int, pad: int = 0) -> jax.Array:
    """The maximum of each window of [B, H, W, C]. With `pad`, `x` must not be negative: `plain` pads with zeros."""
    x, padding = _padded(x, pad)
    return nn.max_pool(x, window_shape=(size, size), strides=(stride, stride), padding=padding)


def mean_pool(x: jax.Array, size: int, stride: int, pad: int = 0) -> jax.Array:
    """The mean of each window of [B, H, W, C] float; it counts the zeros of the padding."""
    x, padding = _padded(x, pad)
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer of NumPy
        return nn.avg_pool(x, window_shape=(size, size), strides=(stride, stride), padding=padding)


def _padded(x, pad):
    if pad and _plain.value:
        return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), "VALID"
    return x, ((pad, pad), (pad, pad)) if pad else "VALID"


def norm(tree) -> jax.Array:
    """The Euclidean norm over all leaves of a tree of arrays."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def finite(tree) -> jax.Array:
    """Whether everything in the tree is finite: a bool scalar."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()
