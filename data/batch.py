"""Batches made on the device: which examples, in which order, seen through which random view.

Everything follows from (seed, epoch, example index) through folded keys, so neither the host, nor the number of
devices, nor where a run was interrupted changes what is seen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.augment import augment
from data.dataset import Augmentation

UNLABELLED = -1
ORDER, VIEW, FIXED_VIEW = 0, 1, 11  # what the seed's key is folded with first: independent streams


@struct.dataclass
class Batch:
    """What a step sees.

    Attributes:
        image: [B, H, W, C] float32 in [0, 1], the augmented view, not normalised.
        label: [B] int32; -1 where the label is withheld (`--num_labels`).
        index: [B] int32, position in the split.
        epoch: float32 scalar, progress in epochs at the start of the step, for warm-ups.
        views: further views of the same examples, each like `image`, in the order in which they were declared.
        second_label: [B] int32, the label of the image that is mixed in (mixup, CutMix); None where nothing is mixed.
        share: [B] float32 in [0.5, 1], the share of `label` in the mixed image; None where nothing is mixed.
        teacher_logits: [B, K] float32, the teacher's answer to `image` where a teacher bank holds it
            (`--teacher_views`); None where the teacher has to be asked.
        examples: N, how many examples the split has, for memories by `index`; static. 0: not known.
    """

    image: jax.Array
    label: jax.Array
    index: jax.Array
    epoch: jax.Array
    views: tuple[jax.Array, ...] = ()
    second_label: jax.Array | None = None
    share: jax.Array | None = None
    teacher_logits: jax.Array | None = None
    examples: int = struct.field(pytree_node=False, default=0)


@functools.partial(jax.jit, static_argnames=("length",))
def epoch_plan(seed: int, epoch: int, pool: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The order of one epoch.

    Args:
        seed: the run's seed.
        epoch: from 0.
        pool: [P] int32, the examples to draw from: usually all of the split.
        length: examples in an epoch (steps times batch size).

    Returns:
        index [length] int32, shuffled passes over the pool one after the other (an epoch is one pass unless the pool
        is smaller than the split); view [length] int32, the number of the pass since the start of the run.
    """
    passes = -(-length // pool.shape[0])
    numbers = epoch * passes + jnp.arange(passes, dtype=jnp.int32)
    key = jax.random.fold_in(jax.random.key(seed), ORDER)
    orders = jax.vmap(lambda number: jax.random.permutation(jax.random.fold_in(key, number), pool))(numbers)
    index = orders.reshape(-1)[:length]
    view = jnp.repeat(numbers, pool.shape[0], total_repeat_length=passes * pool.shape[0])[:length]
    return index, view


@functools.partial(jax.jit, static_argnames=("count",))
def fixed_views(seed: int, index: jax.Array, view: jax.Array, count: int) -> jax.Array:
    """Which of `count` fixed views is shown, where `epoch_plan` would show a fresh one.

    Every `count` passes show each view of each example once. Each example starts each such cycle at a view of its own
    draw and goes around from there, so neither does an epoch show one view number throughout, nor do two cycles
    repeat each other.

    Args:
        seed: the run's seed.
        index: [P] int32, examples.
        view: [P] int32, numbers of the pass since the start of the run.
        count: K, at least 1.

    Returns:
        [P] int32 in [0, K).
    """
    key = jax.random.fold_in(jax.random.key(seed), FIXED_VIEW)
    keys = jax.vmap(lambda v, i: jax.random.fold_in(jax.random.fold_in(key, v), i))(view // count, index)
    start = jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(keys)
    return (start + view) % count


def make_batch(
    images: jax.Array,
    labels: jax.Array,
    seed: jax.Array,
    index: jax.Array,
    view: jax.Array,
    epoch: jax.Array,
    augmentation: Augmentation,
) -> Batch:
    """Gathers and augments a batch; runs inside the compiled step.

    Args:
        images: [N, H, W, C] uint8, the whole split.
        labels: [N] int32.
        seed: int32 scalar.
        index: [B] int32, which examples.
        view: [B] int32, which random view of each.
        epoch: float32 scalar.
        augmentation: static.
    """
    key = jax.random.fold_in(jax.random.key(seed), VIEW)
    keys = jax.vmap(lambda v, i: jax.random.fold_in(jax.random.fold_in(key, v), i))(view, index)
    image = augment(images[index], keys, augmentation)
    return Batch(image=image, label=labels[index], index=index, epoch=epoch)


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices [count] int32, sorted, with equally many examples of each class (the first classes get the rest).

    A class that has too few gives what it has and the others make up for it.
    """
    rng = np.random.default_rng(seed)
    queues = [rng.permutation(np.flatnonzero(labels == c)) for c in range(int(labels.max()) + 1)]
    chosen = []
    for turn in range(max(map(len, queues))):
        for queue in queues:
            if turn < len(queue) and len(chosen) < count:
                chosen.append(queue[turn])
    return np.sort(np.asarray(chosen, np.int32))
