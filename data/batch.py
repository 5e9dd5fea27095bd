"""Batches made on the device: which examples, in which order, seen through which random view.

Everything follows from (seed, epoch, example index) through folded keys, so neither the host, nor the number of
devices, nor where a run was interrupted changes what is seen.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.augment import augment
from data.dataset import Augmentation
from data.mixing import mix, mixing_weights, other
from data.pairs import ClassTable, class_partners

UNLABELLED = -1
# What the seed's key is folded with first: independent streams. 2 and 3 are the engine's, 5 is that of data/pairs.py.
ORDER, VIEW, FURTHER, MIX, FIXED_VIEW, BALANCED, NETWORK = 0, 1, 4, 6, 11, 12, 13
VIEWS = ("weak", "strong", "partner", "previous")


@struct.dataclass
class Batch:
    """What a step sees.

    Attributes:
        image: [B, H, W, C] float32 in [0, 1], the augmented (and mixed) view, not normalised.
        label: [B] int32; -1 where the label is withheld (`--num_labels`).
        index: [B] int32, position in the split.
        epoch: float32 scalar, progress in epochs at the start of the step, for warm-ups.
        views: further views, each like `image`, in the order in which they were declared (`make_batch`).
        second_label: [B] int32, the label of the image that is mixed in (mixup, CutMix); None where nothing is mixed.
        share: [B] float32 in [0.5, 1], the share of `label` in the mixed image; None where nothing is mixed.
        teacher_logits: [B, K] float32, the teacher's answer to `image` where a teacher bank holds it
            (`--teacher_views`); None where the teacher has to be asked.
        examples: N, how many examples the split has, for memories by `index`; static. 0: not known.
        previous: the rows of the step before, in their order, as a batch of their own whose `image` is the view
            "previous"; None where no such view was asked for.
        key: of this update, for what networks draw in training (dropout, stochastic depth); None outside training.
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
    previous: "Batch | None" = None
    key: jax.Array | None = None


@functools.partial(jax.jit, static_argnames=("length", "lead"))
def epoch_plan(seed: int, epoch: int, pool: jax.Array, length: int, lead: int = 0) -> tuple[jax.Array, jax.Array]:
    """The order of one epoch.

    Args:
        seed: the run's seed.
        epoch: from 0.
        pool: [P] int32, the examples to draw from: usually all of the split.
        length: examples in an epoch (steps times batch size).
        lead: so many rows of the end of the epoch before come first, for the view "previous". Epoch 0 is led by
            that of an epoch -1, which no step has seen.

    Returns:
        index [lead + length] int32, shuffled passes over the pool one after the other (an epoch is one pass unless the
        pool is smaller than the split); view [lead + length] int32, the number of the pass since the start of the run.
    """
    passes = -(-length // pool.shape[0])
    first, epochs = (epoch - 1, 2) if lead else (epoch, 1)
    numbers = first * passes + jnp.arange(epochs * passes, dtype=jnp.int32)
    key = jax.random.fold_in(jax.random.key(seed), ORDER)
    orders = jax.vmap(lambda number: jax.random.permutation(jax.random.fold_in(key, number), pool))(numbers)

    def cut(rows):
        rows = rows.reshape(epochs, -1)[:, :length]
        return jnp.concatenate([rows[0, length - lead :], rows[1]]) if lead else rows[0]

    return cut(orders), cut(jnp.broadcast_to(numbers[:, None], orders.shape))


def balanced_plan(
    seed: int, epoch: int, members: list[np.ndarray], length: int, lead: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The order of one epoch in which all classes are equally frequent.

    The examples of a small class come several times in an epoch, each time in another view. Of a large class, each
    epoch shows a new choice.

    Args:
        seed, epoch, length, lead: as in `epoch_plan`.
        members: of each class that has examples, the examples [n] int32.

    Returns:
        index [lead + length] int32, view [lead + length] int32, as in `epoch_plan`. In an epoch the counts of two
        classes differ by 1 at most, before `length` cuts the last examples off.
    """
    draws = -(-length // len(members))
    most = max(-(-draws // len(own)) for own in members)  # passes over a class in an epoch

    def one(number):
        random = np.random.default_rng((seed, BALANCED, number + 1))
        passes = [[random.permutation(own) for _ in range(-(-draws // len(own)))] for own in members]
        index = np.stack([np.concatenate(own)[:draws] for own in passes])
        view = np.stack([number * most + np.arange(draws) // len(own) for own in members])
        columns = np.argsort(random.random((draws, len(members))), axis=1)  # the classes' order in each round
        rows = np.arange(draws)[:, None]
        return index[columns, rows].reshape(-1)[:length], view[columns, rows].reshape(-1)[:length]

    parts = [one(epoch)] if not lead else [[x[length - lead :] for x in one(epoch - 1)], one(epoch)]
    index, view = (np.concatenate(own).astype(np.int32) for own in zip(*parts, strict=True))
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
    start = jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(_keys(key, view // count, index))
    return (start + view) % count


def make_batch(
    images: jax.Array,
    labels: jax.Array,
    seed: jax.Array,
    index: jax.Array,
    view: jax.Array,
    epoch: jax.Array,
    augmentation: Augmentation,
    views: tuple[str, ...] = ("weak",),
    classes: ClassTable | None = None,
    previous: tuple[jax.Array, jax.Array] | None = None,
    second_label: Callable = other,
) -> Batch:
    """Gathers and augments a batch; runs inside the compiled step.

    The first of `views` is `Batch.image`, the others are `Batch.views`, each with random numbers of its own:
    - "weak": the usual augmentation, another draw of it.
    - "strong": crop and flip as usual, then RandAugment(2, 10).
    - "partner": the usual augmentation of another example of the same class (`class_partners`).
    - "previous": the usual augmentation of the previous step's examples, also in `Batch.previous` with their labels
      and indices. What a strategy remembers of the previous step lies row by row beside them. Before the first step
      there is none: the rows are those of `epoch_plan`'s lead, and the strategy ignores what it has not remembered.

    Mixup and CutMix mix every view with the same row's and by the same share (and box), which follow from
    (seed, view, index): so a mixed image is the same mixture in every view, and again as "previous".

    Args:
        images: [N, H, W, C] uint8, the whole split.
        labels: [N] int32.
        seed: int32 scalar.
        index: [B] int32, which examples.
        view: [B] int32, which random view of each.
        epoch: float32 scalar.
        augmentation: static.
        views: static; of `VIEWS`, "weak" first.
        classes: the table of the split, for "partner".
        previous: `index` and `view` of the previous step, [B] int32 each, for "previous".
        second_label: the batch's labels -> the labels of the images that mixing adds; a task's.

    Raises:
        ValueError: a view that does not exist or lacks what it needs.
    """
    _check_views(views, classes, previous)
    key = jax.random.key(seed)

    def show(number, index, view):
        """(view `number` of the rows, the share of their own images)."""
        strong, kind = views[number] == "strong", views[number]
        stream = jax.random.fold_in(key, VIEW)
        if number:
            stream = jax.random.fold_in(jax.random.fold_in(key, FURTHER), number)
        shown = images[class_partners(classes, seed, index, view) if kind == "partner" else index]
        image = augment(shown, _keys(stream, view, index), augmentation, strong)
        weight, share = mixing_weights(
            _keys(jax.random.fold_in(key, MIX), view, index), augmentation, *image.shape[1:3]
        )
        return (image if weight is None else mix(image, weight)), share

    def rows(number, index, view, epoch):
        image, share = show(number, index, view)
        label = labels[index]
        second = None if share is None else second_label(label)
        return Batch(
            image=image,
            label=label,
            index=index,
            epoch=epoch,
            second_label=second,
            share=share,
            examples=images.shape[0],
        )

    batch = rows(0, index, view, epoch)
    further = []
    for number, kind in enumerate(views[1:], start=1):
        if kind == "previous":
            batch = batch.replace(previous=rows(number, *previous, epoch))
            further.append(batch.previous.image)
        else:
            further.append(show(number, index, view)[0])
    return batch.replace(views=tuple(further))


def _keys(key, view, index):
    """A key for each row, of its view and its example."""
    fold = jax.vmap(jax.random.fold_in)  # twice the same program, which XLA compiles once
    return fold(fold(jnp.broadcast_to(key, view.shape), view), index)


def _check_views(views, classes, previous) -> None:
    unknown = [kind for kind in views if kind not in VIEWS]
    if unknown or tuple(views[:1]) != ("weak",):
        raise ValueError(f"Views are of {', '.join(VIEWS)}, the first is weak; got {views}.")
    if views.count("previous") > 1:
        raise ValueError(f"There is one view 'previous' at most; got {views}.")
    if "partner" in views and classes is None:
        raise ValueError("The view 'partner' needs classes=data.class_table(labels).")
    if "previous" in views and previous is None:
        raise ValueError("The view 'previous' needs previous=(index, view), the rows of the step before.")


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
