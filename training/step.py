"""The compiled functions of a run: one training step, and the prediction of a split."""

import functools
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


@struct.dataclass
class DeviceSplit:
    """What the step reads and never writes: a split in device memory and the order of the epoch.

    Attributes:
        images: [N, H, W, C] uint8; labels: [N] int32, -1 where withheld; seed: int32 scalar.
        index, view: [steps, B] int32, of the current epoch (`data.epoch_plan`).
        bank: the teacher's logits on these views (`training.bank.DeviceBank`); None: it is asked in the step.
    """

    images: jax.Array
    labels: jax.Array
    seed: jax.Array
    index: jax.Array
    view: jax.Array
    bank: Any = None


def mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def replicate(tree):
    """A copy of the tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def batch_of(split: DeviceSplit, step: jax.Array, augmentation: data.Augmentation) -> data.Batch:
    """The batch of update number `step`, its rows spread over the devices."""
    steps = split.index.shape[0]
    position = step % steps
    batch = data.make_batch(
        split.images,
        split.labels,
        split.seed,
        split.index[position],
        split.view[position],
        step.astype(jnp.float32) / steps,
        augmentation,
    )
    if split.bank is not None:
        batch = batch.replace(teacher_logits=split.bank.logits(split.view[position], split.index[position]))
    if jax.device_count() > 1:
        rows = NamedSharding(mesh(), PartitionSpec("data"))
        spread = functools.partial(jax.lax.with_sharding_constraint, shardings=rows)
        batch = batch.replace(image=spread(batch.image), label=spread(batch.label), index=spread(batch.index))
        if split.bank is not None:
            batch = batch.replace(teacher_logits=spread(batch.teacher_logits))
    return batch


def train_step(strategy: Strategy, augmentation: data.Augmentation):
    """The one compiled function of training: gather, augment, forward, losses, update, metrics.

    Returns:
        (state, totals, split) -> (state, totals), both donated; `totals` maps a metric's name to a `clu` Average over
        the steps since the last log line.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state: State, totals: dict, split: DeviceSplit):
        batch = batch_of(split, state.step, augmentation)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(split.seed), STEP_KEY), state.step)
        state, metrics = strategy.step(state, batch, key)
        return state, {name: totals[name].merge(_average(value)) for name, value in metrics.items()}

    return step


def _average(value: jax.Array) -> Average:
    return Average(total=value.astype(jnp.float32), count=jnp.ones((), jnp.float32))


def empty_totals(names) -> dict:
    """Averages over no steps."""
    zero = np.zeros((), np.float32)
    return {name: Average(total=zero, count=zero) for name in names}


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

        @jax.jit
        def predict(variables, images, start):
            index = jnp.minimum(start + jnp.arange(self.batch), self.count - 1)  # the padding repeats the last image
            image = images[index].astype(jnp.float32) / 255.0
            if jax.device_count() > 1:
                rows = NamedSharding(mesh(), PartitionSpec("data"))
                image = jax.lax.with_sharding_constraint(image, rows)
            return player.forward(variables, image)[0].logits

        self._predict = predict

    def __call__(self, variables: dict) -> np.ndarray:
        """Logits [N, K] float32 in host memory."""
        parts = [self._predict(variables, self.images, start) for start in range(0, self.count, self.batch)]
        return np.concatenate([np.asarray(part) for part in parts])[: self.count]
