"""Non-maximum suppression of static shape: of boxes that overlap, the one with the highest score stays."""

import jax
import jax.numpy as jnp

from models.detectors.boxes import iou


def nms(
    boxes: jax.Array, scores: jax.Array, classes: jax.Array, valid: jax.Array, threshold: float, most: int
) -> tuple[jax.Array, jax.Array]:
    """Greedy suppression among the boxes of each class. For a batch: `jax.vmap`.

    Each turn keeps the best box that is left and drops what overlaps it, so memory is linear in N. The turns end when
    no box is left.

    Args:
        boxes: [N, 4] float32.
        scores: [N] float32; of equal scores the lower index comes first.
        classes: [N] int32; boxes of two classes never suppress each other.
        valid: [N] bool; the other boxes neither stay nor suppress.
        threshold: a box goes if its IoU with a kept box is above. Two empty boxes do not overlap.
        most: how many boxes stay at most; static.

    Returns:
        (index [most] int32, the boxes that stay in the order of falling scores; kept [most] bool, the entries that are
        filled).
    """
    numbers = jnp.arange(len(boxes))

    def unfinished(state):
        count, left, _ = state
        return (count < most) & (jnp.max(left) > -jnp.inf)

    def turn(state):
        count, left, index = state
        best = jnp.argmax(left)
        overlaps = (iou(boxes[best][None], boxes)[0] > threshold) & (classes == classes[best])
        left = jnp.where(overlaps | (numbers == best), -jnp.inf, left)
        return count + 1, left, index.at[count].set(best.astype(jnp.int32))

    start = jnp.int32(0), jnp.where(valid, scores, -jnp.inf), jnp.zeros(most, jnp.int32)
    count, _, index = jax.lax.while_loop(unfinished, turn, start)
    return index, jnp.arange(most) < count
