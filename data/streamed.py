"""Splits that are streamed: the host makes the rows of each update, ahead of the devices.

Which rows update number s shows, and how a picture is cropped, follow from (seed, epoch, index) alone. So a position
is one integer, the step: a run that continues at step s reads update s first and nothing before it, and no number of
threads, devices or processes changes a row. Each process reads only the rows of its own devices.
"""

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hosts
from data import crops
from data.dataset import Augmentation, Dataset, Split
from data.device_split import DeviceSplit, FlatImages
from data.pairs import class_partners, class_table
from data.plans import Plans, Sweep, on_the_host

LIMIT = 4 * 2**30  # bytes; with --loading auto a dataset of more is streamed
CHUNK = 64  # the largest number of rows that a thread reads in one turn
AHEAD = 2  # batches that are kept ready, beside what the threads are reading


def streams(loading: str, count: int, image_shape: tuple[int, ...]) -> bool:
    """Whether images are streamed.

    Args:
        loading: "memory", "stream", or "auto": streamed if the images need more than `LIMIT` bytes.
        count: number of images.
        image_shape: (H, W, C).
    """
    return loading == "stream" or (loading == "auto" and count * int(np.prod(image_shape)) > LIMIT)


def divided(dataset: Dataset, augmentation: Augmentation) -> tuple[float, Augmentation]:
    """(the smallest area of the random resized crops that the host makes, the rest of the augmentation).

    The host crops streamed pictures of any size. The device crops images that all have one size: then streaming
    changes no bit.
    """
    if not (dataset.streamed and dataset.train.any_size):
        return 0.0, augmentation
    return augmentation.resized_crop, dataclasses.replace(augmentation, resized_crop=0.0)


def threads_of(threads: int) -> int:
    """The number of reading threads; 0 stands for one for each core that this process may use."""
    return threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


class Rows:
    """The placing of batches: row b of a batch lies on one device, and each process reads the rows of its devices.

    Args:
        sharding: splits the first axis of an array over the devices.
        size: B, rows of a batch.
    """

    def __init__(self, sharding: jax.sharding.Sharding, size: int):
        self.sharding, self.size = sharding, size
        parts = [parts[0] for parts in sharding.addressable_devices_indices_map((size,)).values()]
        self.mine = np.unique(np.concatenate([np.arange(size)[part] for part in parts]))
        self.chunks = -(-len(self.mine) // CHUNK)

    def chunk(self, number: int) -> np.ndarray:
        """The rows that one thread reads in one turn."""
        return self.mine[number * CHUNK : (number + 1) * CHUNK]

    def place(self, rows: np.ndarray) -> jax.Array:
        """A batch [B, ...] on the devices, of the rows `mine` of this process."""

        def part(index):
            first = int(np.searchsorted(self.mine, index[0].start or 0))
            return rows[first : first + len(range(self.size)[index[0]])]

        return jax.make_array_from_callback((self.size, *rows.shape[1:]), self.sharding, part)


def ahead(read: Callable, rows: Rows, first: int, count: int, threads: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields what `read` returns for the batches `first` to `count` - 1, read by threads ahead of the caller.

    Args:
        read: (number of a batch, rows [M] of it) -> a tuple of arrays [M, ...].
        rows: which rows of a batch this process reads.
        first, count: batches.
        threads: that read.

    Raises:
        Exception: what `read` raised, when the caller asks for that batch.
    """
    import grain

    def part(number):
        batch, chunk = divmod(number, rows.chunks)
        return read(batch, rows.chunk(chunk))

    parts = grain.MapDataset.range(count * rows.chunks).map(part)[first * rows.chunks :]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + AHEAD * rows.chunks)
    with contextlib.closing(iter(parts.to_iter_dataset(options))) as found:
        for _ in range(first, count):
            pieces = [next(found) for _ in range(rows.chunks)]
            yield pieces[0] if len(pieces) == 1 else tuple(map(np.concatenate, zip(*pieces, strict=True)))


class Reader:
    """The pictures of a split, for one process of several.

    The other processes wait for this one's rows in every update, so a process that ended at the first picture that it
    cannot read would leave them waiting for ever. Zeros take the place of such pictures until all processes call
    `check`, which ends them together. A run of one process raises at once.

    Args:
        split: the split.
    """

    def __init__(self, split: Split):
        self.split, self._error = split, None

    def rows(self, index: np.ndarray) -> np.ndarray:
        """`Split.rows`."""
        return self._tried(self.split.rows, index)

    def crops(self, index: np.ndarray, *drawn) -> np.ndarray:
        """`crops` of a split of pictures of any size."""
        return self._tried(self.split.crops, index, *drawn)

    def _tried(self, read: Callable, index: np.ndarray, *drawn) -> np.ndarray:
        try:
            return read(index, *drawn)
        except Exception as error:
            if not hosts.several():
                raise
            self._error = self._error or error
            return np.zeros((len(index), *self.split.image_shape), np.uint8)

    def check(self) -> None:
        """Raises in all processes if one of them could not read a picture; they call this at the same place."""
        with hosts.agreed():
            if self._error:
                raise self._error


class Stream:
    """The pictures of every update of one seed.

    Args:
        split: the training split.
        labels: [N] int32, -1 where withheld, for views "partner".
        bank: the teacher's logits (`data.stored.DeviceBank`), on the host; None: every step runs the teacher.
        plan: the plans of the epochs.
        views: the kinds of views (`data.make_batch`).
        least: smallest area of a random resized crop that the host makes, as a share; 0: the host makes none.
        sharding: of a batch over the devices.
        threads: that read; 0: one for each core.
    """

    def __init__(
        self,
        split: Split,
        labels: np.ndarray,
        plan: Plans | Sweep,
        bank: Any = None,
        *,
        views: tuple[str, ...],
        least: float,
        sharding: jax.sharding.Sharding,
        threads: int,
    ):
        self.reader, self.plan, self.bank = Reader(split), plan, bank
        self.views, self.least, self.threads = views, least, threads_of(threads)
        self.placing = Rows(sharding, plan.size)
        self._classes = jax.tree.map(np.asarray, class_table(labels)) if "partner" in views else None
        self._coming: Iterator | None = None
        self._next, self._last = -1, (-1, {})
        self._marks: collections.deque = collections.deque()

    def read(self, step: int, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """What some rows of an update show: pictures [M, H, W, C] uint8 for each of `sources`, then the bank's rows."""
        (epoch, position), found = divmod(step, self.plan.steps), []
        for number, kind in self.sources:
            index, view = (x[position + (kind != "previous")][rows] for x in self.plan(epoch))
            shown = index if kind != "partner" else self._partners(index, view)
            if self.least:
                pairs = zip(view.tolist(), index.tolist(), strict=True)
                drawn = [crops.draws(self.plan.seed, number, *pair) for pair in pairs]
                found.append(self.reader.crops(shown, drawn, self.least))
            else:
                found.append(self.reader.rows(shown))
        index, view = (x[position + 1][rows] for x in self.plan(epoch))
        return *found, *jax.tree.leaves(self.bank and self.bank.rows(view, index))

    @property
    def sources(self) -> list[tuple[int, str]]:
        """(number, kind) of the views that need pictures of their own. Crops of the host differ between all views."""
        kinds = ["weak" if kind == "strong" and not self.least else kind for kind in self.views]
        return [(n, kind) for n, kind in enumerate(kinds) if self.least or kind not in kinds[:n]]

    def _partners(self, index, view) -> np.ndarray:
        with on_the_host():
            return np.asarray(_class_partners(self._classes, np.int32(self.plan.seed), index, view))

    def feed(self, split: DeviceSplit, step: int, state: jax.Array | None = None) -> DeviceSplit:
        """The split with the pictures of update `step` on the devices, one array [B, H, W, C] for each view.

        Args:
            split: the epoch of the update.
            step: the update, counted from the start of the run.
            state: an array that the update before computes; threads then read the updates after `step`. The call waits
                until the update before that one is done: otherwise a slow device would hold the pictures of many
                updates. None: a look at one update, apart from the training.
        """
        if state is not None:
            self._marks.append(_copied(state))
            if len(self._marks) > 1:
                jax.block_until_ready(self._marks.popleft())
        if self._last[0] != step:
            if state is None:
                found = self.read(step, self.placing.mine)
                self.check()
            else:
                if self._next != step:
                    self._coming = ahead(self.read, self.placing, step, self.plan.total, self.threads)
                found, self._next = next(self._coming), step + 1
            found = list(map(self.placing.place, found))
            placed, rest = dict(zip(self.sources, found, strict=False)), found[len(self.sources) :]
            kinds = {kind: x for (_, kind), x in placed.items()} | {"strong": placed[self.sources[0]]}
            own = {number: x for (number, _), x in placed.items()}
            pictures = tuple(own.get(n, kinds[kind]) for n, kind in enumerate(self.views))
            bank = jax.tree.unflatten(jax.tree.structure(self.bank), rest)
            self._last = step, {"pictures": pictures, "bank": bank}
        return split.replace(**self._last[1])

    def check(self) -> None:
        """`Reader.check`. The results of updates count for nothing before it."""
        self.reader.check()


class InMemory:
    """The stream of a split that lies on the devices: updates gather their rows themselves.

    Args:
        labels, plan, bank: as of `Stream`; not needed.
    """

    def __init__(self, labels: np.ndarray, plan: Plans | Sweep, bank: Any = None):
        del labels, plan, bank

    def feed(self, split: DeviceSplit, step: int, state: jax.Array | None = None) -> DeviceSplit:
        """The split as it is."""
        del step, state
        return split

    def check(self) -> None:
        """Every picture was read before the first update."""


class StreamedImages:
    """The images of a split that stay on the host. `training.answers.Answers` takes them like an array on the devices.

    Args:
        split: the split.
        sharding: of a batch over the devices.
        threads: that read; 0: one for each core.
    """

    def __init__(self, split: Split, sharding: jax.sharding.Sharding, threads: int):
        self.split, self.sharding, self.threads = split, sharding, threads_of(threads)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, index: np.ndarray) -> Iterator[jax.Array]:
        """Yields the images of each row of `index` [batches, B] on the devices, [B, H, W, C] uint8.

        Several processes must read to the end: they agree there that all pictures could be read.
        """
        rows, reader = Rows(self.sharding, index.shape[1]), Reader(self.split)
        for (found,) in ahead(lambda n, own: (reader.rows(index[n][own]),), rows, 0, len(index), self.threads):
            yield rows.place(found)
        reader.check()


def batches(images: FlatImages | StreamedImages, index: np.ndarray) -> Iterator[tuple[jax.Array, np.ndarray | None]]:
    """Yields for each row of `index` [batches, B] (images on the devices, the numbers of the batch's images in them).

    The numbers are None where the images are the batch's, divided among several devices. One device gathers the rows
    of a streamed batch all the same: so the program is that of images in memory, to the last bit.
    """
    if isinstance(images, StreamedImages):
        numbers = None if len(images.sharding.device_set) > 1 else np.arange(index.shape[1], dtype=np.int32)
        yield from ((batch, numbers) for batch in images.batches(index))
    else:
        yield from ((images, rows) for rows in index)


def feeds(dataset: Dataset, devices, views: tuple[str, ...], least: float, threads: int) -> tuple:
    """How a run's images reach the devices.

    Args:
        dataset: the data.
        devices: `training.devices.Devices`.
        views, least, threads: as in `Stream`.

    Returns:
        (the training images on the devices, or None if they are streamed; split -> its images for `Answers`;
        (labels, plan, bank) -> what feeds the updates of one seed).
    """
    if not dataset.streamed:

        def see(split):
            return devices.place(FlatImages.of(split.images))

        return see(dataset.train), see, InMemory
    how = {"sharding": devices.rows, "threads": threads}
    stream = functools.partial(Stream, dataset.train, views=views, least=least, **how)
    return None, functools.partial(StreamedImages, **how), stream


_class_partners, _copied = jax.jit(class_partners), jax.jit(jnp.copy)
