"""The compiled functions of a run: training steps, and the prediction of a split."""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data
from transfer import Player, State, Strategy

STEP_KEY = 2  # the stream of the seed that methods draw from (data.batch has 0 and 1)
EVAL_BATCH = 250
NEVER = np.iinfo(np.int32).max


@struct.dataclass
class DeviceSplit:
    """What the step reads and never writes: a split in device memory and the order of the epoch.

    Attributes:
        images: [N, H, W, C] uint8; labels: [N] int32, -1 where withheld; seed: int32 scalar.
        index, view: [1 + steps, B] int32, of the epoch (`data.epoch_plan`); row 0 is the last of the epoch before.
        classes: the table for views "partner"; None where no such view is asked for.
        bank: the teacher's logits on these views (`training.bank.DeviceBank`); None: it is asked in the step.
    """

    images: jax.Array
    labels: jax.Array
    seed: jax.Array
    index: jax.Array
    view: jax.Array
    classes: data.ClassTable | None = None
    bank: Any = None


@struct.dataclass
class Totals:
    """What is added up between two log lines.

    Attributes:
        averages: metric -> `clu` Average over the steps since the last log line (but skipped ones).
        bad: metric -> int32, the first update of the run in which it was not finite; `NEVER` where none.
        skipped: int32, updates left out since the start of the run (`on_nan="skip"`).
    """

    averages: dict[str, Average]
    bad: dict[str, jax.Array]
    skipped: jax.Array

    @classmethod
    def empty(cls, names, skipped: int = 0) -> "Totals":
        """Over no steps."""
        zero = np.zeros((), np.float32)
        averages = {name: Average(total=zero, count=zero) for name in names}
        return cls(averages, {name: np.asarray(NEVER, np.int32) for name in names}, np.asarray(skipped, np.int32))

    def add(self, metrics: dict, step: jax.Array, keep: jax.Array | None = None) -> "Totals":
        """With the metrics of update number `step`; where `keep` is False, as one that was skipped."""
        counts = jnp.ones((), jnp.float32) if keep is None else keep.astype(jnp.float32)
        averages = {}
        for name, total in self.averages.items():
            value = metrics[name].astype(jnp.float32)
            value = value if keep is None else jnp.where(keep, value, 0.0)
            averages[name] = total.merge(Average(total=value, count=counts))
        bad = {n: jnp.minimum(b, jnp.where(jnp.isfinite(metrics[n]), NEVER, step)) for n, b in self.bad.items()}
        skipped = self.skipped if keep is None else self.skipped + 1 - keep.astype(jnp.int32)
        return Totals(averages, bad, skipped)


def mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def place(tree, examples: int = 0):
    """The tree on the devices, as `spec` says; what lies there already stays.

    Args:
        tree: arrays; with several processes all bring the same ones.
        examples: N of the split; 0: everything is copied to every device.
    """
    devices = mesh()

    def put(path, leaf):
        sharding = NamedSharding(devices, spec(path, np.shape(leaf), examples))
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: leaf[rows])

    return jax.tree_util.tree_map_with_path(put, tree)


def replicate(tree):
    """A copy of the tree on every device."""
    return place(tree)


def shapes(tree, examples: int = 0):
    """Of a tree as `place` would lay it out: what is traced with these is not traced again with such arrays."""
    devices = mesh()

    def shape(path, leaf):
        sharding, weak = NamedSharding(devices, spec(path, leaf.shape, examples)), getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)

    return jax.tree_util.tree_map_with_path(shape, tree)


def compile_ahead(program: Callable, *arguments) -> Callable[[], None]:
    """Compiles in a thread what a call of `program`, a `jax.jit`, with such arguments will run.

    Args:
        arguments: arrays, or `shapes` of them.

    Returns:
        What waits for it; to be called before such a call, which would compile a second time. What does not compile is
        that call's to tell. Of several processes all would have to compile in the same order: there nothing happens.
    """
    if jax.process_count() > 1:
        return lambda: None
    lowered = program.lower(*arguments)

    def compile_it():
        with contextlib.suppress(Exception):
            lowered.compile()

    thread = threading.Thread(target=compile_it)  # no daemon: a process that ends must not cut XLA off
    thread.start()
    return thread.join


def spec(path: tuple, shape: tuple[int, ...], examples: int, axis: int = 0) -> PartitionSpec:
    """How a leaf lies on the devices.

    What a method remembers of every example (a leaf in a collection "memory" with a row for each, as CRD's banks) is
    spread over them by rows, where these divide evenly; everything else is on each of them.

    Args:
        path: of the leaf, as JAX gives it.
        shape: of the leaf.
        examples: N of the split.
        axis: of the examples.
    """
    remembered = any(getattr(key, "key", None) == "memory" for key in path)
    rows = shape[axis] if remembered and len(shape) > axis else 0
    if jax.device_count() > 1 and rows and rows == examples and rows % jax.device_count() == 0:
        return PartitionSpec(*[None] * axis, "data")
    return PartitionSpec()


def placed(tree, examples: int = 0, axis: int = 0):
    """In a compiled function: the tree, laid out as `spec` says, so that every call gives what the next one takes."""
    if jax.device_count() == 1:
        return tree
    devices = mesh()

    def constrain(path, leaf):
        sharding = NamedSharding(devices, spec(path, leaf.shape, examples, axis))
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree_util.tree_map_with_path(constrain, tree)


def batch_of(
    split: DeviceSplit, step: jax.Array, augmentation: data.Augmentation, views: tuple[str, ...] = ("weak",)
) -> data.Batch:
    """The batch of update number `step` with the views asked for, its rows spread over the devices."""
    steps = split.index.shape[0] - 1
    position = step % steps
    batch = data.make_batch(
        split.images,
        split.labels,
        split.seed,
        split.index[position + 1],
        split.view[position + 1],
        (step // steps).astype(jnp.float32) + position.astype(jnp.float32) / steps,  # whole at the start of an epoch
        augmentation,
        views,
        split.classes,
        (split.index[position], split.view[position]),
    )
    if split.bank is not None:
        batch = batch.replace(teacher_logits=split.bank.logits(split.view[position + 1], batch.index))
    if jax.device_count() > 1:
        rows = NamedSharding(mesh(), PartitionSpec("data"))
        batch = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if x.ndim else x, batch)
    return batch


def finite(tree) -> jax.Array:
    """Whether everything in the tree is finite: a bool scalar."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def step_key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """The key that update number `step` draws from."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STEP_KEY), step)


STATE_AXES = State(step=0, params=0, extra=0, opt_state=0, frozen=None)  # of replicas stacked in one program
SPLIT_AXES = DeviceSplit(images=None, labels=0, seed=0, index=0, view=0, classes=0, bank=0)


class Trainer:
    """The one compiled function of training: gather, augment, forward, losses, update, metrics.

    Args:
        strategy: who teaches whom.
        augmentation: of the images.
        skip: an update with anything that is not finite is left out, and counted.
        stacked: replicas are trained side by side by one program (`vmap`) instead of one after the other. XLA is slow
            at convolutions under `vmap` on CPUs.
        many: all updates of a call run in one program. XLA's loops are slow on CPUs.
    """

    def __init__(self, strategy: Strategy, augmentation: data.Augmentation, *, skip=False, stacked=False, many=False):
        self.stacked, self.many = stacked, many

        def step(state: State, totals: Totals, split: DeviceSplit):
            batch = batch_of(split, state.step, augmentation, strategy.views)
            new, metrics = strategy.traced_step(state, batch, step_key(split.seed, state.step))
            keep = None
            if skip:
                keep = finite((metrics, new.params, new.extra))
                new = jax.tree.map(functools.partial(jnp.where, keep), new, state.replace(step=new.step))
            learned = placed(new.replace(frozen=None), split.images.shape[0])
            return learned.replace(frozen=new.frozen), placed(totals.add(metrics, new.step, keep))

        if stacked:
            step = jax.vmap(step, in_axes=(STATE_AXES, 0, SPLIT_AXES), out_axes=(STATE_AXES, 0))

        def steps(state: State, totals: Totals, split: DeviceSplit, count: jax.Array):
            return jax.lax.fori_loop(0, count, lambda _, carry: step(*carry, split), (state, totals))

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self._steps = jax.jit(steps, donate_argnums=(0, 1))
        self._wait = lambda: None

    def begin(self, state: State, totals: Totals, split: DeviceSplit) -> None:
        """Compiles what the first call will run, in a thread: a replica at a time; shapes of its arguments do."""
        if not self.stacked:
            program, count = (self._steps, (1,)) if self.many else (self.step, ())
            self._wait = compile_ahead(program, state, totals, split, *count)

    def __call__(self, states: list[State], totals: list[Totals], splits: list[DeviceSplit], count: int = 1):
        """`count` updates of every replica: -> (states, totals), the given ones are donated."""
        self._wait()
        if self.stacked:
            examples = splits[0].images.shape[0]
            return _unstack(self._run(*_stack(states, totals, splits), count), len(states), examples)
        done = [self._run(*replica, count) for replica in zip(states, totals, splits, strict=True)]
        return [state for state, _ in done], [total for _, total in done]

    def _run(self, state, totals, split, count):
        if self.many:
            return self._steps(state, totals, split, count)
        for _ in range(count):
            state, totals = self.step(state, totals, split)
        return state, totals


def _stack(states, totals, splits):
    """The replicas' trees as one each, with a new first axis but for what `STATE_AXES` and `SPLIT_AXES` share."""
    frozen, images = states[0].frozen, splits[0].images
    own = [(s.replace(frozen=None), t, x.replace(images=None)) for s, t, x in zip(states, totals, splits, strict=True)]
    state, total, split = _stacked(own, images.shape[0])
    return state.replace(frozen=frozen), total, split.replace(images=images)


@functools.partial(jax.jit, static_argnames="examples")
def _stacked(trees, examples):
    return placed(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), examples, axis=1)


def _unstack(stacked, count: int, examples: int):
    state, total = stacked
    members = _members((state.replace(frozen=None), total), count, examples)
    return [s.replace(frozen=state.frozen) for s, _ in members], [t for _, t in members]


@functools.partial(jax.jit, static_argnames=("count", "examples"))
def _members(tree, count, examples):
    return [placed(jax.tree.map(lambda leaf, i=i: leaf[i], tree), examples) for i in range(count)]


class Predictor:
    """Logits of a player on a whole split, compiled once.

    Args:
        player: the network.
        images: [N, H, W, C] uint8.
    """

    def __init__(self, player: Player, images: np.ndarray | jax.Array):
        self.count = len(images)
        self.batch = min(EVAL_BATCH * jax.device_count(), -(-self.count // jax.device_count()) * jax.device_count())
        self.images = replicate(images)

        def predict(variables, images, index):
            image = images[index].astype(jnp.float32) / 255.0
            if jax.device_count() > 1:
                rows = NamedSharding(mesh(), PartitionSpec("data"))
                image = jax.lax.with_sharding_constraint(image, rows)
            return placed(player.forward(variables, image)[0].logits)  # every process reads all of them

        @jax.jit
        def whole(variables, images, batches):
            logits = jax.lax.map(functools.partial(predict, variables, images), batches)
            return placed(logits.reshape(-1, logits.shape[-1]))

        self._predict, self._whole = jax.jit(predict), whole

    def sample(self, variables: dict, rows: np.ndarray) -> np.ndarray:
        """Logits [len(rows), K] float32 of the images `rows`, at most `EVAL_BATCH`."""
        return np.asarray(self._predict(replicate(variables), self.images, self._batches(rows)[0]))[: len(rows)]

    def _batches(self, rows: np.ndarray) -> np.ndarray:
        padding = -len(rows) % self.batch  # repeats the last image
        return np.pad(rows.astype(np.int32), (0, padding), mode="edge").reshape(-1, self.batch)

    def __call__(self, variables: dict, stopping: threading.Event | None = None) -> np.ndarray | None:
        """Logits [N, K] float32 in host memory; None where `stopping` was set on the way."""
        batches = self._batches(np.arange(self.count))
        variables = replicate(variables)
        if jax.default_backend() == "cpu":  # XLA's loops are slow there
            parts = []
            for index in batches:
                if stopping and stopping.is_set():
                    return None
                parts.append(np.asarray(self._predict(variables, self.images, index)))
            logits = np.concatenate(parts)
        else:
            logits = np.asarray(self._whole(variables, self.images, batches))
        return logits[: self.count]
