"""The compiled update: gather, augment, forward, losses, optimizer, metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from flax import struct

import data
from data.batch import step_key
from models import ops
from models.loops import repeated
from training.devices import Devices
from transfer import State, Strategy

INIT_KEY = 3  # random stream of the seed for first weights; data/batch.py has the others
NEVER = np.iinfo(np.int32).max


@struct.dataclass
class Totals:
    """The metrics that are added up between two log lines.

    Attributes:
        averages: metric -> `clu` Average over the steps since the last log line, without skipped steps.
        bad: metric -> int32, the first update of the run in which the metric was not finite; `NEVER` if none.
        skipped: int32, updates left out since the start of the run (`on_nan="skip"`).
    """

    averages: dict[str, Average]
    bad: dict[str, jax.Array]
    skipped: jax.Array

    @classmethod
    def empty(cls, names, skipped: int = 0) -> "Totals":
        """Returns totals over no steps."""
        zero = np.zeros((), np.float32)
        averages = {name: Average(total=zero, count=zero) for name in names}
        return cls(averages, {name: np.asarray(NEVER, np.int32) for name in names}, np.asarray(skipped, np.int32))

    def add(self, metrics: dict, step: jax.Array, keep: jax.Array | None = None) -> "Totals":
        """Adds the metrics of update number `step`; an update with `keep` False is counted as skipped."""
        counts = jnp.ones((), jnp.float32) if keep is None else keep.astype(jnp.float32)
        averages = {}
        for name, total in self.averages.items():
            value = metrics[name].astype(jnp.float32)
            value = value if keep is None else jnp.where(keep, value, 0.0)
            averages[name] = total.merge(Average(total=value, count=counts))
        bad = {n: jnp.minimum(b, jnp.where(jnp.isfinite(metrics[n]), NEVER, step)) for n, b in self.bad.items()}
        skipped = self.skipped if keep is None else self.skipped + 1 - keep.astype(jnp.int32)
        return Totals(averages, bad, skipped)


STATE_AXES = State(step=0, params=0, extra=0, opt_state=0, frozen=None)  # `vmap` axes of stacked seeds
SPLIT_AXES = data.DeviceSplit(images=None, labels=0, seed=0, index=0, view=0, classes=0, bank=0, pictures=0)


class Update:
    """The compiled functions of a run.

    Args:
        strategy: who teaches whom.
        augmentation: the augmentation of the images.
        devices: where the programs run.
        skip: an update with a number that is not finite is left out and counted.
        stacked: one program updates all seeds side by side (`vmap`) instead of one after the other.
        many: all updates of a call run in one program.

    Attributes:
        first_state: split -> the first state of one seed. Frozen variables are None, so the program holds no weights.
        shares: (state, split, step) -> each loss term's share of the gradient on the batch of update number `step`.
        inspect: (state, split, step) -> (name -> input of update number `step`, indices of the batch's examples).
    """

    def __init__(
        self,
        strategy: Strategy,
        augmentation: data.Augmentation,
        devices: Devices,
        *,
        skip=False,
        stacked=False,
        many=False,
    ):
        self.strategy, self.augmentation, self.devices = strategy, augmentation, devices
        self.skip, self.stacked, self.many = skip, stacked, many
        axes = {"in_axes": (STATE_AXES, 0, SPLIT_AXES), "out_axes": (STATE_AXES, 0)}
        step = jax.vmap(self.one, **axes) if stacked else self.one

        def several(state: State, totals: Totals, split: data.DeviceSplit, count: jax.Array):
            def one(frozen, state, totals):
                new, totals = step(state.replace(frozen=frozen), totals, split)
                return new.replace(frozen=None), totals

            own = state.frozen, state.replace(frozen=None), totals
            new, totals = repeated(one, count, *own, devices.platform)
            return new.replace(frozen=state.frozen), totals

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.several = jax.jit(several, donate_argnums=(0, 1))
        self.first_state, self.shares, self.inspect = map(jax.jit, (self._first, self._shares, self._inspect))

    def one(self, state: State, totals: Totals, split: data.DeviceSplit) -> tuple[State, Totals]:
        """One update of one seed."""
        batch = self.batch(split, state.step)
        new, metrics = self.strategy.traced_step(state, batch, step_key(split.seed, state.step))
        keep = None
        if self.skip:
            keep = ops.finite((metrics, new.params, new.extra))
            new = jax.tree.map(functools.partial(jnp.where, keep), new, state.replace(step=new.step))
        learned = self.devices.constrain(new.replace(frozen=None), split.labels.shape[0])
        return learned.replace(frozen=new.frozen), self.devices.constrain(totals.add(metrics, new.step, keep))

    def batch(self, split: data.DeviceSplit, step: jax.Array) -> data.Batch:
        """Returns the batch of update number `step` with the strategy's views. The devices share its rows."""
        strategy = self.strategy
        batch = split.batch(step, self.augmentation, strategy.views, strategy.task.second_label)
        return self.devices.split_rows(batch)

    def metric_names(self, state: State, split: data.DeviceSplit) -> list[str]:
        """Returns the names of an update's metrics, from shapes; nothing is computed."""

        def metrics(state, split):
            batch, key = self.batch(split, state.step), step_key(split.seed, state.step)
            return self.strategy.traced_step(state, batch, key)[1]

        return list(jax.eval_shape(metrics, state, split))

    def _first(self, split):
        key = jax.random.fold_in(jax.random.key(split.seed), INIT_KEY)
        state = self.strategy.traced_init(key, self.batch(split, jnp.zeros_like(split.seed)))
        return self.devices.constrain(state.replace(frozen=dict.fromkeys(state.frozen)), split.labels.shape[0])

    def _shares(self, state, split, step):
        batch, key = self.batch(split, step), step_key(split.seed, step)
        return self.devices.constrain(self.strategy.shares(state, batch, key))

    def _inspect(self, state, split, step):
        batch = self.batch(split, step)
        return self.devices.constrain((self.strategy.inspect(state, batch), batch.index))

    def __call__(self, states: list[State], totals: list[Totals], splits: list[data.DeviceSplit], count: int = 1):
        """Makes `count` updates of every seed. The given states and totals are donated.

        Returns:
            (states, totals).
        """
        if self.stacked:
            examples = splits[0].labels.shape[0]
            done = self._run(*self.stack(states, totals, splits), count)
            return self._unstack(done, len(states), examples)
        done = [self._run(*seed, count) for seed in zip(states, totals, splits, strict=True)]
        return [state for state, _ in done], [total for _, total in done]

    def _run(self, state, totals, split, count):
        if self.many:
            return self.several(state, totals, split, count)
        for _ in range(count):
            state, totals = self.step(state, totals, split)
        return state, totals

    def stack(self, states, totals, splits):
        """Stacks the trees of all seeds on a new first axis, except parts with None in `STATE_AXES` or `SPLIT_AXES`."""
        frozen, images = states[0].frozen, splits[0].images
        own = [
            (s.replace(frozen=None), t, x.replace(images=None)) for s, t, x in zip(states, totals, splits, strict=True)
        ]
        state, total, split = _stacked(self.devices, own, splits[0].labels.shape[0])
        return state.replace(frozen=frozen), total, split.replace(images=images)

    def _unstack(self, stacked, count: int, examples: int):
        state, total = stacked
        members = _members(self.devices, (state.replace(frozen=None), total), count, examples)
        return [s.replace(frozen=state.frozen) for s, _ in members], [t for _, t in members]


@functools.partial(jax.jit, static_argnames=("devices", "examples"))
def _stacked(devices, trees, examples):
    return devices.constrain(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), examples, axis=1)


@functools.partial(jax.jit, static_argnames=("devices", "count", "examples"))
def _members(devices, tree, count, examples):
    return [devices.constrain(jax.tree.map(lambda leaf, i=i: leaf[i], tree), examples) for i in range(count)]
