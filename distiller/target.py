"""Functions that the methods on labels share: the label's class and the other classes."""

import jax
import jax.numpy as jnp


def split_target(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divides logits into the label's class and the other classes.

    Args:
        logits: [B, K] float, K at least 2.
        label: [B] int; a withheld label (-1) counts as class 0, and `labelled_mean` leaves its row out.

    Returns:
        (target [B, 1], others [B, K - 1]). The others start at the class after the target and go on cyclically.
    """
    classes = logits.shape[1]
    label = jnp.maximum(label, 0)[:, None]
    others = (label + jnp.arange(1, classes, dtype=label.dtype)) % classes
    return jnp.take_along_axis(logits, label, axis=1), jnp.take_along_axis(logits, others, axis=1)


def labelled_mean(rows: jax.Array, label: jax.Array) -> jax.Array:
    """Mean of `rows` [B] over the rows whose label [B] is not withheld (-1); 0 if all labels are withheld."""
    labelled = label >= 0
    return jnp.sum(jnp.where(labelled, rows, 0.0)) / jnp.maximum(jnp.sum(labelled.astype(rows.dtype)), 1.0)


def refuse_two_classes(
    method: str,
    logits: jax.Array,
    why: str = "over a single class besides the target's, the",
    instead: str = "SoftLogits, which for two classes transfers all that the teacher's logits say",
) -> None:
    """Raises `ValueError` if `logits` [B, K] have fewer than 3 classes.

    Args:
        method: the method's name, for the message.
        logits: [B, K].
        why: the beginning of the reason; the message continues with "distribution is constant".
        instead: what to use.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"{method} needs 3 classes or more and found {logits.shape[1]}: {why} distribution is constant and "
            f"teaches nothing.\nUse {instead}."
        )


def ramp(epoch: jax.Array, warmup_epochs: int) -> jax.Array:
    """min((whole epochs done + 1) / warmup_epochs, 1), as in the reference codes: never 0, and 1 without a warm-up."""
    return jnp.minimum((jnp.floor(epoch) + 1.0) / max(warmup_epochs, 1), 1.0)
