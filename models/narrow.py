"""A 3x3 convolution of few channels, in the form in which a CPU is fast with it.

XLA:CPU copies the 3x3 neighbours of every pixel into a row and multiplies all rows by the kernel. With few channels
most of the time goes into the copies, and a product with few columns leaves most of a core's registers empty. So r
pixels side by side share a row: their 3 x (r + 2) neighbours, times a kernel with the 3x3 one r times in it, each a
pixel further and with outputs of its own, zeros elsewhere. The sums are the same ones but for terms that are zero (or
NaN: what is not finite reaches all r pixels of each row of the product that it is copied into).

`convolve_narrow` is a JAX primitive because what JAX would derive of that form is slow (a convolution of dilated
inputs): the derivative by the input is the same convolution again, with the kernel turned round, and the one by the
kernel is XLA's own. Both are exact, and so is every derivative of them.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

SIZE = 3


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """XLA's convolution of [B, H, W, C] by [size, size, C / groups, features], padded as in PyTorch."""
    return _convolve(x, kernel, (stride, stride), groups)


def _convolve(x, kernel, strides, groups=1):
    pad = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def convolve_rows(x: jax.Array, kernel: jax.Array, pixels: int) -> jax.Array:
    """`convolve` of stride 1 and size 3, [B, H, W, C] by [3, 3, C, features], with `pixels` in a row; they divide W."""
    shifted = [jnp.pad(kernel, ((0, 0), (i, pixels - 1 - i), (0, 0), (0, 0))) for i in range(pixels)]
    y = _convolve(x, jnp.concatenate(shifted, axis=-1), (1, pixels))  # [B, H, W / pixels, pixels * features]
    y = y.reshape(*y.shape[:3], pixels, kernel.shape[-1])  # in two steps: JAX follows them on an explicit mesh
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def pixels_a_row(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> int:
    """How many pixels share a row: 1, 2 or 4, the fastest with AVX-512 (`benchmarks/narrow.py`); 1 is `convolve`.

    Args:
        x_shape: (B, H, W, C) of the input.
        kernel_shape: (size, size, C, features).
    """
    fewest, most = sorted(kernel_shape[2:])
    if kernel_shape[0] != SIZE or (fewest > 4 and most > 24):
        return 1
    pixels = 4 if fewest <= 4 else 2
    while x_shape[2] % pixels:
        pixels //= 2
    return pixels


def _type_of_result(x, kernel):
    if kernel.shape[:3] != (SIZE, SIZE, x.shape[-1]) or kernel.dtype != x.dtype:
        raise TypeError(f"A kernel of shape [3, 3, {x.shape[-1]}, features] and {x.dtype} is needed; got {kernel}.")
    return x.update(shape=(*x.shape[:3], kernel.shape[-1]), weak_type=False)


def _in_rows(x, kernel):
    return convolve_rows(x, kernel, pixels_a_row(x.shape, kernel.shape))


def _by_the_input(cotangent, x, kernel):
    del x
    return convolve_narrow(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))


def _by_the_kernel(cotangent, x, kernel):
    return jax.linear_transpose(lambda k: convolve(x, k), kernel.aval)(cotangent)[0]


convolve_narrow_p = Primitive("convolve_narrow")
convolve_narrow_p.def_impl(jax.jit(_in_rows))
convolve_narrow_p.def_abstract_eval(_type_of_result)
mlir.register_lowering(convolve_narrow_p, mlir.lower_fun(_in_rows, multiple_results=False))
ad.defbilinear(convolve_narrow_p, _by_the_input, _by_the_kernel)
batching.primitive_batchers[convolve_narrow_p] = lambda operands, axes: (jax.vmap(convolve, axes)(*operands), 0)


def convolve_narrow(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve_rows` with as many pixels as `pixels_a_row` says; under `vmap`, `convolve`."""
    return convolve_narrow_p.bind(x, kernel)
