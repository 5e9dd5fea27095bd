"""Draws a partner for each example on the device: another example of the same class."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

PARTNER = 5  # the seed's key is folded with it; data/batch.py has the numbers of the other streams


@struct.dataclass
class ClassTable:
    """The examples of a split, sorted by class.

    Attributes:
        order: [N] int32, the examples, class after class.
        start: [N] int32, where an example's class begins in `order`.
        count: [N] int32, how many examples an example's class has.
        position: [N] int32, the example's place among the examples of its class.
    """

    order: jax.Array
    start: jax.Array
    count: jax.Array
    position: jax.Array


def class_table(labels: np.ndarray) -> ClassTable:
    """The table of labels [N], made once on the host. An example without a label (-1) is a class of its own."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    start, count = np.searchsorted(labels[order], labels), np.bincount(np.maximum(labels, 0), labels >= 0)
    withheld = labels < 0
    start = np.where(withheld, place, start)
    count = np.where(withheld, 1, count[np.maximum(labels, 0)])
    return ClassTable(*(jnp.asarray(x, jnp.int32) for x in (order, start, count, place - start)))


def class_partners(table: ClassTable, seed: jax.Array, index: jax.Array, view: jax.Array) -> jax.Array:
    """Draws for each example of `index` another example of its class, all with equal probability.

    Args:
        table: of the split.
        seed: int32 scalar.
        index: [B] int32.
        view: [B] int32, the number of the random view. A partner follows from (seed, view, index) alone.

    Returns:
        [B] int32, positions in the split. An example without a label, or alone in its class, is its own partner.
    """
    key = jax.random.fold_in(jax.random.key(seed), PARTNER)
    count, position = table.count[index], table.position[index]

    def draw(v, i, others):
        return jax.random.randint(jax.random.fold_in(jax.random.fold_in(key, v), i), (), 0, jnp.maximum(others, 1))

    step = jnp.where(count > 1, 1 + jax.vmap(draw)(view, index, count - 1), 0)
    return table.order[table.start[index] + (position + step) % count]
