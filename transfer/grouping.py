"""An update whose batch norms take the statistics of groups of chips, each of its own rows of the batch.

Statistics of the whole batch need an exchange between all chips in each batch norm, forward and backward, one after the
other. Statistics of one chip's rows need none. The chips exchange the gradients, as always, and the means by
which the running statistics move.
"""

import functools

from models.layers import batch_norm_groups
from transfer.base import Strategy


class Grouped:
    """What `grouped` puts in front of a strategy's class."""

    groups: int

    def step(self, state, batch, key):
        with batch_norm_groups(self.groups):
            return super().step(state, batch, key)

    def shares(self, state, batch, key):
        with batch_norm_groups(self.groups):
            return super().shares(state, batch, key)


@functools.cache
def grouped(kind: type[Strategy], groups: int) -> type[Strategy]:
    """Returns the strategy `kind` whose batch norms take the statistics of `groups` groups; `kind` for one group."""
    return type(kind.__name__, (Grouped, kind), {"groups": groups}) if groups > 1 else kind
