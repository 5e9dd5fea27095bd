"""The plans of a run's epochs: which example each update shows, in which random view."""

import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import balanced_plan, by_class, epoch_plan, fixed_views


class Plans:
    """The plans of one seed's epochs, for the updates and for the threads that read ahead; the last two are kept.

    Args:
        seed: the run's seed.
        pool: [P] int32, the examples to draw from.
        total: updates of the run.
        steps: updates in an epoch.
        size: B, examples in an update.
        views: K, the number of fixed views of each example; 0: fresh views in every epoch.
        balanced: labels [N] int32: all classes come equally often; None: an epoch is one pass.
        previous: a view shows the batch before. Otherwise no update reads the last batch of the epoch before, and the
            order of that epoch is not drawn: of 1.28 million examples this takes a second.
    """

    def __init__(
        self,
        seed: int,
        pool: np.ndarray,
        total: int,
        steps: int,
        size: int,
        views: int = 0,
        balanced: np.ndarray | None = None,
        previous: bool = True,
    ):
        self.seed, self.total, self.steps, self.size, self.views = seed, total, steps, size, views
        self._plan, self._examples = epoch_plan, pool
        if balanced is not None:
            self._plan, self._examples = balanced_plan, by_class(pool, balanced)
        self._lead = size if previous else 0
        self._kept, self._lock = {}, threading.Lock()

    def __call__(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(index, view) of an epoch, each [1 + steps, B] int32; row 0 is the last one of the epoch before, or 0."""
        with self._lock:
            if epoch not in self._kept:
                self._kept = {**dict(list(self._kept.items())[-1:]), epoch: self._make(epoch)}
            return self._kept[epoch]

    def _make(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with on_the_host():
            index, view = self._plan(self.seed, epoch, self._examples, self.steps * self.size, self._lead)
            if self.views:
                view = fixed_views(self.seed, jnp.asarray(index), jnp.asarray(view), self.views)
        rows = [np.asarray(x).reshape(-1, self.size) for x in (index, view)]
        if not self._lead:
            rows = [np.concatenate([np.zeros_like(x[:1]), x]) for x in rows]
        return rows[0], rows[1]


class Sweep:
    """One pass over examples in their order, in one view, as a plan.

    Args:
        seed: the seed of the views.
        index: [steps, B] int32.
        view: the number of the view.
    """

    def __init__(self, seed: int, index: np.ndarray, view: int):
        self.seed, (self.steps, self.size), self.total = seed, index.shape, len(index)
        order = np.concatenate([index[-1:], index])  # row 0 is for the view "previous", which no sweep has
        self._rows = order, np.full_like(order, view)

    def __call__(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(index, view), each [1 + steps, B] int32."""
        del epoch
        return self._rows


def on_the_host() -> contextlib.AbstractContextManager:
    """A context in which JAX computes on the CPU: a thread that reads must not wait for the devices' work."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return contextlib.nullcontext()
