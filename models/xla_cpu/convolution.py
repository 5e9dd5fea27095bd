"""Faster convolutions: of few channels, of one channel a group, and of several groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.ops import third, xla_convolve

SIZE = 3


def convolution(first: jax.Array, second: jax.Array, *, of: str, wanted, stride: int, groups: int) -> jax.Array:
    """A convolution or one of its derivatives (`models.ops.third`), by the function that is fastest."""
    if groups == stride == 1 and of != "kernel":
        # The derivative by the input is the same convolution again, with the kernel turned by 180 degrees.
        x, kernel = (first, second) if of == "output" else (second, first[::-1, ::-1].swapaxes(2, 3))
        if (pixels := pixels_a_row(x.shape, kernel.shape)) > 1:
            return convolve_rows(x, kernel, pixels)
    if groups == 1:
        words = functools.partial(xla_convolve, stride=stride)
    elif _depthwise({"output": second, "input": first, "kernel": wanted}[of].shape, groups):
        words = functools.partial(convolve_depthwise, stride=stride)
    else:
        words = functools.partial(convolve_groups, stride=stride, groups=groups)
    return third(words, of, wanted, first, second)


def _depthwise(kernel_shape: tuple[int, ...], groups: int) -> bool:
    return kernel_shape[2] == 1 and kernel_shape[3] == groups


def convolve_rows(x: jax.Array, kernel: jax.Array, pixels: int) -> jax.Array:
    """A 3x3 convolution of stride 1, [B, H, W, C] by [3, 3, C, features], of few channels; `pixels` divides W.

    XLA:CPU copies the 3x3 neighbours of every pixel into a row and multiplies all rows by the kernel. With few channels
    the copies cost most of the time, and a product with few columns leaves most of a core's registers empty. So
    `pixels` neighbouring pixels share a row of 3 x (pixels + 2) neighbours. The kernel for such a row holds the 3x3
    kernel once for each pixel, shifted by one column each, and zeros elsewhere. The copies are fewer and the products
    wider. The sums have more terms, which are zero. They are NaN if a number is not finite, in all pixels of its row.

    The derivative by the kernel stays XLA's: building the rows costs more than the saved copies.
    """
    shifted = [jnp.pad(kernel, ((0, 0), (i, pixels - 1 - i), (0, 0), (0, 0))) for i in range(pixels)]
    y = xla_convolve(x, jnp.concatenate(shifted, axis=-1), (1, pixels))  # [B, H, W / pixels, pixels * features]
    y = y.reshape(*y.shape[:3], pixels, kernel.shape[-1])  # in two steps: JAX follows them on an explicit mesh
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def pixels_a_row(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> int:
    """The number of pixels that share a row: 1 (XLA's way), 2 or 4, the fastest in `benchmarks/narrow.py`.

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


def convolve_depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with one channel a group, as a sum of shifted products in float32.

    XLA:CPU has no fast depthwise convolution. The sum is 10 to 30 times as fast, and the sum's derivatives are faster
    still.
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
    """A convolution of several groups, one group after the other.

    XLA:CPU's derivatives of a grouped convolution take 5 to 10 times as long as those of one convolution a group.
    """
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    return jnp.concatenate([xla_convolve(part, its_kernel, stride) for part, its_kernel in parts], axis=-1)
