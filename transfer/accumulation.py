"""An update whose batch goes through the networks in parts, one after the other, for less memory.

    gradient = mean of the gradients of the parts;   one step of the optimizer

Part i of k has the rows i, i + k, i + 2 k, ... of the batch, so that each device has as many rows of every part. Batch
statistics and the memories of methods go on from one part to the next. Metrics are means over the parts.

A loss that is a mean over examples has the whole batch's gradient, within rounding, where the network has no batch
norm. Where labels are withheld the label loss is the mean of the parts' means. A method that compares the examples of a
batch compares those of a part. A term's share of the gradient is measured on the first part.
"""

import functools

import jax
import jax.numpy as jnp

from data import Batch
from transfer.base import Strategy


def part_of(batch: Batch, number: jax.Array | int, count: int) -> Batch:
    """Returns the rows `number`, `number` + `count`, ... of a batch whose size `count` divides.

    Each part has a key of its own for what networks draw.
    """

    def rows(leaf):
        if not leaf.ndim:
            return leaf
        return leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:])[:, number]

    key = None if batch.key is None else jax.random.fold_in(batch.key, number)
    return jax.tree.map(rows, batch.replace(key=None)).replace(key=key)


class Accumulating:
    """What `accumulated` puts in front of a strategy's class."""

    parts: int

    def init(self, key, batch):
        return super().init(key, part_of(batch, 0, self.parts))

    def shares(self, state, batch, key):
        return super().shares(state, part_of(batch, 0, self.parts), key)

    def _gradients(self, state, batch, key):
        def one(extra, number):
            part, own = part_of(batch, number, self.parts), jax.random.fold_in(key, number)
            *found, extra = super(Accumulating, self)._gradients(state.replace(extra=extra), part, own)
            return found, extra

        def add(carry, number):
            total, extra = carry
            found, extra = one(extra, number)
            return (jax.tree.map(jnp.add, total, found), extra), None

        found, _ = jax.eval_shape(one, state.extra, jnp.zeros((), jnp.int32))
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found), state.extra
        (total, extra), _ = jax.lax.scan(add, start, jnp.arange(self.parts, dtype=jnp.int32))
        return *jax.tree.map(lambda leaf: leaf / self.parts, total), extra


@functools.cache
def accumulated(kind: type[Strategy], parts: int) -> type[Strategy]:
    """Returns the strategy `kind` whose update takes a batch in `parts` parts; `kind` for one part."""
    return type(kind.__name__, (Accumulating, kind), {"parts": parts}) if parts > 1 else kind
