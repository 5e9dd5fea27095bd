"""A moving average of the student's weights, which is tested and kept in the place of the weights themselves.

    average <- d * average + (1 - d) * student   after each update,   d = min(decay, (1 + t) / (10 + t))

t counts the updates done. The average starts at the student's first weights; the second number of the minimum, that of
TensorFlow's `ExponentialMovingAverage` and of EfficientNet's training, lets it forget them in the first updates, where
timm's plain average would hold a random network for 1 / (1 - decay) updates. Batch statistics are averaged like the
weights.

Paper: Polyak, Juditsky. Acceleration of stochastic approximation by averaging. SIAM J. Control Optim. 1992.

The average teaches nobody: the updates of a run are the same with and without it. Networks beside the student are kept
as they are.
"""

import functools

import jax
import jax.numpy as jnp

from transfer.base import Strategy

AVERAGE = "average"  # its name in `State.extra`


class Averaging:
    """What `averaged` puts in front of a strategy's class.

    The strategy's own `step` sees a state without the average, so that `student_variables` are there the weights that
    learn. Everybody else sees the average in their place.
    """

    decay_of_average: float

    def init(self, key, batch):
        state = super().init(key, batch)
        # A copy, because a step takes over the state's buffers one by one: no two leaves may share one.
        first = jax.tree.map(jnp.copy, self.student_variables(state))
        return state.replace(extra={**state.extra, AVERAGE: first})

    def step(self, state, batch, key):
        own = {name: value for name, value in state.extra.items() if name != AVERAGE}
        new, metrics = super().step(state.replace(extra=own), batch, key)
        count = new.step.astype(jnp.float32)
        decay = jnp.minimum(self.decay_of_average, (1 + count) / (10 + count))
        average = jax.tree.map(
            lambda old, now: (old + (1 - decay) * (now - old)).astype(old.dtype),  # what is frozen stays to the bit
            state.extra[AVERAGE],
            self.student_variables(new),
        )
        return new.replace(extra={**new.extra, AVERAGE: average}), metrics

    def student_variables(self, state):
        return state.extra[AVERAGE] if AVERAGE in state.extra else super().student_variables(state)

    def learners(self, state):
        found = super().learners(state)
        return {**found, "student": (found["student"][0], self.student_variables(state))}


@functools.cache
def averaged(kind: type[Strategy], decay: float) -> type[Strategy]:
    """Returns the strategy `kind` whose student is tested and kept as the average of its weights; `kind` at decay 0."""
    return type(kind.__name__, (Averaging, kind), {"decay_of_average": decay}) if decay else kind
