"""Whether a strategy reads the class scores of its frozen teachers, found in a trace of its losses."""

from collections.abc import Callable

import jax
from flax.errors import FlaxError

from models import traces


def reads_classes(strategy, shapes: Callable) -> bool:
    """Whether the losses depend on the classifier of a frozen network; nothing is computed.

    The classifier is what lies under a name that begins with `classifier`. A frozen network without such a layer counts
    as read. So does one with which the losses cannot be traced: its class scores do not have the student's shape.

    Args:
        strategy: a `transfer.Strategy` whose state has frozen networks.
        shapes: () -> (state, batch, key) of a step, as shapes.
    """

    def losses(frozen, state, batch, key):
        terms, (extra, _) = strategy.losses(state.params, state.replace(frozen=frozen), batch, key)
        return terms, extra

    try:
        state, batch, key = shapes()
        read = traces.read_leaves(losses, state.frozen, state.replace(frozen={}), batch, key)
    except (ValueError, TypeError, FlaxError):
        return True
    for variables in read.values():
        last = [tree for name, tree in variables["params"].items() if name.startswith("classifier")]
        if not last or any(jax.tree.leaves(last)):
            return True
    return False
