"""Batches made on the device: which examples, in which order, in which random view.

Keys folded from (seed, epoch, example index) decide everything. So the batches are the same on every host, on any
number of devices, and after an interruption.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.augment import augment, placement
from data.dataset import Augmentation
from data.mixing import mix, mixing_weights, other
from data.objects import Objects
from data.pairs import ClassTable, class_partners

UNLABELLED = -1
SHOWN = 12  # counts in a note
# Numbers that the seed's key is folded with first; each gives an independent stream. training/update.py has 3,
# data/pairs.py has 5.
ORDER, VIEW, METHOD, FURTHER, MIX, FIXED_VIEW, BALANCED, NETWORK = 0, 1, 2, 4, 6, 11, 12, 13
VIEWS = ("weak", "strong", "partner", "previous")


@struct.dataclass
class Batch:
    """The input of one training step.

    Attributes:
        image: [B, H, W, C] float32 in [0, 1], the augmented (and mixed) view, not normalised.
        label: [B] int32; -1 where the label is withheld (`--num_labels`). In data for detection `data.Objects` of [B],
            in pixels of `image`.
        index: [B] int32, position in the split.
        epoch: float32 scalar, progress in epochs at the start of the step, for warm-ups.
        views: further views, each like `image`, in the order in which they were declared (`make_batch`).
        second_label: [B] int32, the label of the image that is mixed in (mixup, CutMix); None where nothing is mixed.
        share: [B] float32 in [0.5, 1], the share of `label` in the mixed image; None where nothing is mixed.
        teacher_logits: [B, K] float32, the teacher's logits for `image` from a teacher bank (`--teacher_views`); None:
            the step runs the teacher.
        examples: N, the number of examples in the split, for memories with a row for each `index`; static. 0: unknown.
        previous: the rows of the previous step, in their order, as a batch. Its `image` is the view "previous". None:
            no such view was asked for.
        objects: what `label` was before the task made rows of class labels of it for a method (`tasks.detection`).
        key: the update's key for what networks draw in training (dropout, stochastic depth); None outside training.
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
    objects: Objects | None = None
    key: jax.Array | None = None


@functools.partial(jax.jit, static_argnames=("length", "lead"))
def epoch_plan(seed: int, epoch: int, pool: jax.Array, length: int, lead: int = 0) -> tuple[jax.Array, jax.Array]:
    """The order of one epoch.

    Args:
        seed: the run's seed.
        epoch: from 0.
        pool: [P] int32, the examples to draw from: usually all of the split.
        length: examples in an epoch (steps times batch size).
        lead: the number of rows from the end of the previous epoch that come first, for the view "previous". The
            rows before epoch 0 are of an epoch -1, which no step has trained on.

    Returns:
        (index [lead + length] int32, shuffled passes over the pool, one after the other; view [lead + length] int32,
        the number of the pass since the start of the run). An epoch is one pass unless the pool is smaller than the
        split.
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

    The examples of a small class come several times in an epoch, each time in another view. An epoch has only some
    examples of a large class, and each epoch draws other ones.

    Args:
        seed, epoch, length, lead: as in `epoch_plan`.
        members: for each class that has examples, the indices [n] int32 of its examples.

    Returns:
        (index [lead + length] int32, view [lead + length] int32), as in `epoch_plan`. In an epoch the counts of two
        classes differ by 1 at most: every round has one example of each class, and `length` may cut the last round.
    """
    draws = -(-length // len(members))
    most = max(-(-draws // len(own)) for own in members)  # the most passes over one class in an epoch

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


def by_class(pool: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The examples of `pool` [P], by the class that `labels` [N] give them; classes without examples are left out."""
    return [pool[labels[pool] == number] for number in np.unique(labels[pool])]


@functools.partial(jax.jit, static_argnames=("count",))
def fixed_views(seed: int, index: jax.Array, view: jax.Array, count: int) -> jax.Array:
    """The number of the fixed view that each row shows, where `epoch_plan` has a fresh view.

    A cycle of `count` passes shows each of the `count` views of each example once. In each cycle, each example draws
    the view that it starts with and takes the others in order. So an epoch mixes view numbers, and cycles differ.

    Args:
        seed: the run's seed.
        index: [P] int32, examples.
        view: [P] int32, the number of the pass since the start of the run.
        count: K, at least 1.

    Returns:
        [P] int32 in [0, K).
    """
    key = jax.random.fold_in(jax.random.key(seed), FIXED_VIEW)
    start = jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(_keys(key, view // count, index))
    return (start + view) % count


def make_batch(
    images: jax.Array | None,
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
    pictures: tuple[jax.Array, ...] | None = None,
) -> Batch:
    """Gathers and augments a batch; runs inside the compiled step.

    The first of `views` is `Batch.image`, the others are `Batch.views`. Each has random numbers of its own. The kinds:

    - "weak": the usual augmentation.
    - "strong": crop and flip as usual, then RandAugment(2, 10) in the form of `Augmentation.strong`.
    - "partner": the usual augmentation of another example of the same class (`class_partners`).
    - "previous": the usual augmentation of the previous step's examples. `Batch.previous` has it with their labels and
      indices, in the same order as what a strategy remembers of the previous step. Before the first step the rows are
      those of `epoch_plan`'s lead. A strategy ignores them, because it remembers nothing yet.

    Mixup and CutMix mix a row with the same other row, by the same share (and box), in every view. Share and box follow
    from (seed, view, index). So a mixed image is the same mixture in every view, and again as "previous".

    Args:
        images: N images uint8, the whole split: `FlatImages`, or [N, H, W, C]; not read if `pictures` are given.
        labels: [N] int32, or `data.Objects`.
        seed: int32 scalar.
        index: [B] int32, the examples.
        view: [B] int32, the number of the random view of each example.
        epoch: float32 scalar.
        augmentation: static.
        views: static; of `VIEWS`, "weak" first.
        classes: the table of the split, for "partner".
        previous: `index` and `view` of the previous step, [B] int32 each, for "previous".
        second_label: labels of the batch -> labels of the images that are mixed in; the task defines it.
        pictures: the rows of a streamed split (`data.streamed`): for each view [B, H, W, C] uint8, before augmentation.

    Raises:
        ValueError: a view does not exist, or `classes` or `previous` is missing for it.
    """
    _check_views(views, classes, previous)
    key = jax.random.key(seed)

    def show(number, index, view):
        """(view `number` of the rows, the share of a row's own image in it)."""
        strong, kind = views[number] == "strong", views[number]
        stream = jax.random.fold_in(key, VIEW)
        if number:
            stream = jax.random.fold_in(jax.random.fold_in(key, FURTHER), number)
        if pictures is None:
            shown = images[class_partners(classes, seed, index, view) if kind == "partner" else index]
        else:
            shown = pictures[number]
        image = augment(shown, _keys(stream, view, index), augmentation, strong)
        weight, share = mixing_weights(
            _keys(jax.random.fold_in(key, MIX), view, index), augmentation, *image.shape[1:3]
        )
        return (image if weight is None else mix(image, weight)), share

    def rows(number, index, view, epoch):
        image, share = show(number, index, view)
        label = labels[index]
        if isinstance(label, Objects):
            keys = _keys(jax.random.fold_in(key, VIEW), view, index)
            label = label.moved(*placement(keys, augmentation, *image.shape[1:3]), image.shape[1:3])
        second = None if share is None else second_label(label)
        return Batch(
            image=image,
            label=label,
            index=index,
            epoch=epoch,
            second_label=second,
            share=share,
            examples=labels.shape[0],
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


def step_key(seed: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the random key of a method in update number `step`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), METHOD), step)


def _keys(key, view, index):
    """A key for each row, folded from the row's view and example."""
    fold = jax.vmap(jax.random.fold_in)  # both folds are the same program, so XLA compiles it once
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
    """Draws `count` examples, equally many of each class; the first classes get the rest of the division.

    A class with too few examples gives all of them, and the other classes give more.

    Returns:
        [count] int32, sorted indices.
    """
    rng = np.random.default_rng(seed)
    queues = [rng.permutation(np.flatnonzero(labels == c)) for c in range(int(labels.max()) + 1)]
    chosen = []
    for turn in range(max(map(len, queues))):
        for queue in queues:
            if turn < len(queue) and len(chosen) < count:
                chosen.append(queue[turn])
    return np.sort(np.asarray(chosen, np.int32))


def withheld(labels: np.ndarray, count: int, seed: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Labels of which all but `count` are withheld.

    Args:
        labels: [N] int32.
        count: how many stay, class-balanced (`balanced_subset`).
        seed: decides which.
        num_classes: K.

    Returns:
        (labels [N] int32 with -1 where withheld, the examples [count] whose labels stay, a note where the classes have
        unequal numbers of labels).
    """
    labelled = balanced_subset(labels, count, seed)
    counts, note = np.bincount(labels[labelled], minlength=num_classes), ""
    if counts.min() < counts.max():
        shown = ", ".join(map(str, counts[:SHOWN])) + ", ..." * (len(counts) > SHOWN)
        note = f"the classes have unequal numbers of labels: {shown}."
    kept = np.full_like(labels, UNLABELLED)
    kept[labelled] = labels[labelled]
    return kept, labelled, note
