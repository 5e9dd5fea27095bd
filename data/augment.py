"""Augmentation on the device, one key per example: the view depends on nothing else."""

import jax
import jax.numpy as jnp

from data.dataset import Augmentation


def augment(images: jax.Array, keys: jax.Array, how: Augmentation) -> jax.Array:
    """Random views of a batch.

    Args:
        images: [B, H, W, C] uint8.
        keys: [B] typed random keys.
        how: static.

    Returns:
        [B, H, W, C] float32 in [0, 1].
    """
    if how.pad or how.flip:
        draws = jax.vmap(lambda k: jax.random.randint(k, (3,), 0, jnp.array([2 * how.pad + 1, 2 * how.pad + 1, 2])))(
            keys
        )
        images = crop_and_flip(images, draws[:, :2], draws[:, 2] * int(how.flip), how)
    return images.astype(jnp.float32) / 255.0


def crop_and_flip(images: jax.Array, offsets: jax.Array, flips: jax.Array, how: Augmentation) -> jax.Array:
    """The window of the padded image whose corner is `offsets`, mirrored where `flips` is 1.

    Args:
        images: [B, H, W, C] uint8.
        offsets: [B, 2] int32 in [0, 2 * pad].
        flips: [B] int32, 0 or 1.

    Rows and columns are gathered by index, which XLA compiles to one pass on every backend.
    """
    height, width = images.shape[1:3]
    rows = offsets[:, :1] + jnp.arange(height)
    columns = jnp.arange(width)
    columns = offsets[:, 1:] + jnp.where(flips[:, None] == 1, width - 1 - columns, columns)
    if how.pad:
        border = ((0, 0), (how.pad, how.pad), (how.pad, how.pad), (0, 0))
        images = jnp.pad(images, border, mode="reflect" if how.mode == "reflect" else "constant")
    example = jnp.arange(images.shape[0])[:, None, None]
    return images[example, rows[:, :, None], columns[:, None, :]]
