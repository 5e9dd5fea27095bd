"""Memories: arrays with a row for every example of the data set, read and written by the batch's indices."""

import jax
import jax.numpy as jnp


def recall(bank: jax.Array, index: jax.Array, missing) -> jax.Array:
    """Reads rows of a memory.

    Args:
        bank: [N, ...].
        index: [B] int32.
        missing: the value of a row whose index is outside 0 ... N - 1.

    Returns:
        [B, ...].
    """
    return bank.at[_places(bank, index)].get(mode="fill", fill_value=missing)


def remember(bank: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """Writes rows into a memory.

    Args:
        bank: [N, ...].
        index: [B] int32; a row whose index is outside 0 ... N - 1 is dropped.
        rows: [B, ...], any float type; stored in the type of `bank`.

    Returns:
        The new memory [N, ...].
    """
    return bank.at[_places(bank, index)].set(rows.astype(bank.dtype), mode="drop")


def _places(bank: jax.Array, index: jax.Array) -> jax.Array:
    """Replaces negative indices by N, which is outside the memory. NumPy's indexing would count them from the end."""
    return jnp.where(index < 0, bank.shape[0], index)
