"""The teacher bank: the teacher's logits on K fixed views of every image, computed once, so no step runs the teacher.

The bank is a cache in the run folder, `teacher_bank/` (`data.stored`). The bank of a streamed split stays on the disk,
in the user's cache folder, where all runs with its key share it. The key is all that the bank's numbers depend on. A
bank with another key, or a damaged one, is computed again. Several processes (`--hosts`) may have no disk in common, so
each computes the bank at every start and keeps it in memory.

The bank stores all logits [K, N, C]. With `top_k` it stores the highest of each row, their indices, and one number for
the other classes: the log of the mean of their exponentials. With float16 a logit is rounded to 11 bits.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

import data
import hosts
from data import stored
from data.stored import DeviceBank, Settings
from files import lock, size_text
from pretrained.given import Given
from training.answers import BATCH
from transfer import Strategy

FOLDER = "teacher_bank"
FORMAT = 1  # part of the key; to be increased when the code computes other numbers


def reason_against(strategy: Strategy, augmentation: data.Augmentation, name: str) -> str:
    """Returns why a bank cannot replace the teacher, for a message; empty if it can.

    Args:
        strategy: a strategy with a teacher.
        augmentation: the run's augmentation.
        name: the method's name.
    """
    if isinstance(strategy.teacher, tuple):
        return f"there are {len(strategy.teacher)} teachers, but a bank holds the logits of one"
    if augmentation.mixup or augmentation.cutmix:
        return "images are mixed with others, which are drawn anew every time, so no view comes twice"
    if strategy.method.gradient_taps:
        return f"{name} asks for the teacher's gradients, but a bank holds only its logits"
    if tuple(strategy.views) != ("weak",):
        return f"{name} wants the views {', '.join(strategy.views)} of each image, but a bank holds one"
    return ""


def prepare(
    folder: pathlib.Path, settings: Settings, shared, loaded: tuple, say: Callable, warn: Callable
) -> DeviceBank:
    """Reads the bank of one seed; computes and writes it first if no whole bank with the same key exists.

    Args:
        folder: the seed's folder.
        settings: with one view or more, but of given logits.
        shared: `training.replica.Shared`.
        loaded: (`pretrained.Pretrained` or `pretrained.given.Given`, player, variables) of the teacher.
        say, warn: take a line of text.

    Returns:
        The bank in host memory, mapped from its files.

    Raises:
        UserError: the bank cannot be written or does not fit on the device; the message has the bank's size.
        NonFiniteError: a logit is too large for the number format.
    """
    key, classes = _key(settings, shared, *loaded), shared.dataset.num_classes
    count, views, weights = len(shared.dataset.train), max(1, settings.views), loaded[0]
    arrays = DeviceBank.arrays(views, count, classes, settings.dtype, settings.top_k)
    size, blocks = stored.size(arrays), functools.partial(_views, settings, arrays, shared, *loaded)
    what = f"Teacher bank: {views} view{'s' * (views > 1)} of {count:,} images, {size_text(size)}"
    streamed, where = shared.images is None, "on the device"
    advice = "lower --teacher_views, or keep fewer classes with --config.teacher_bank_top_k."
    with contextlib.ExitStack() as stack:
        if streamed and not hosts.several():
            folder = stored.shared_folder(key)
            stack.enter_context(lock(folder))
            where = f"in {folder}"
        folder = None if hosts.several() else folder / FOLDER
        found, how = stored.obtain(folder, key, arrays, blocks, what, f"Make room, or {advice}", say, warn)
    with hosts.agreed():
        stored.check_memory(0 if streamed else size, "The teacher bank", advice.capitalize())
    say(f"{what} {where}, {how}. No step runs the teacher.")
    if isinstance(weights, Given):
        weights.compare(found, shared.dataset, say, warn)
    return DeviceBank(**found, classes=classes)


def _key(settings: Settings, shared, weights, player, variables) -> dict:
    """Returns all that the numbers in a bank depend on, as JSON."""
    del variables  # they follow from the weights
    dataset = shared.dataset
    key = {
        "format": FORMAT,
        "teacher_sha256": weights.sha256,
        "teacher_arch": weights.info["arch"],
        "teacher_options": weights.info.get("options", {}),
        "teacher_dtype": jnp.dtype(player.model.dtype).name if hasattr(player.model, "dtype") else "",
        "mean": player.mean,
        "std": player.std,
        "dataset": dataset.name,
        "data": dataset.fingerprint,
        "classes": dataset.class_names,  # the order of the logits (`pretrained.classes`)
        "images": [len(dataset.train), *dataset.image_shape],
        "augmentation": dataclasses.asdict(shared.update.augmentation),
        **dataclasses.asdict(settings),
    }
    key |= {"view": dataclasses.asdict(player.view)} if player.image_size else {}
    key |= {"crop": shared.least} if shared.least else {}
    return json.loads(json.dumps(key))


def _views(settings: Settings, arrays: dict, shared, weights, player, variables) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows of the stored arrays in their order, batch by batch: all examples in view 0, then in view 1, ...

    Training makes its batches in the same way (`Update.batch`), but of other examples. Given logits
    (`pretrained.given`) are asked for outside of the programs.
    """
    devices, train, given = shared.devices, data.Reader(shared.dataset.train), isinstance(weights, Given)
    count = len(shared.dataset.train)
    size = min(BATCH, -(-count // devices.count)) * devices.count
    index = np.minimum(np.arange(-(-count // size) * size, dtype=np.int32), count - 1).reshape(-1, size)
    unlabelled = np.zeros(count, np.int32)
    variables, labels = devices.place((variables, unlabelled))
    show = jax.jit(lambda split, step: devices.constrain(shared.update.batch(split, step).image))
    pack = jax.jit(lambda logits: DeviceBank.pack(logits, settings.top_k))

    @jax.jit
    def compute(variables, split, step):
        image = shared.update.batch(split, step).image
        return DeviceBank.pack(devices.constrain(player.forward(variables, image)[0].logits), settings.top_k)

    for number in range(max(1, settings.views)):
        plan = data.Sweep(settings.seed, index, number)
        split = data.DeviceSplit(shared.images, labels, *devices.place((np.asarray(plan.seed, np.int32), *plan(0))))
        stream = shared.stream(unlabelled, plan)
        for step, rows in enumerate(index):
            if not given or settings.views:
                at = stream.feed(split, step, labels), np.asarray(step, np.int32)
            if given:
                look = functools.partial(show, *at) if settings.views else functools.partial(train.rows, rows)
                block = pack(weights.logits(number, rows, look))
            else:
                block = compute(variables, *at)
            block = {name: np.asarray(x)[: count - step * size] for name, x in block.items()}
            yield {name: stored.rounded(x, arrays[name][1]) for name, x in block.items()}
        for read in (stream, train):
            read.check()
