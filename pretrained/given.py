"""A teacher's logits on the training images, given from outside: a file, or a function that is asked about images.

The logits fill the teacher bank, so the teacher may be of any framework, and no step runs it.
"""

import dataclasses
import hashlib
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import numpy as np

import data
from files import sha256
from models import Player
from pretrained import orders
from registry import NonFiniteError, Registry, UserError

BLOCK = 2**24  # values that are looked at together
FUNCTIONS = Registry("teacher's logits", {})  # of a user's own "module:function"
HEAD = b"\x93NUMPY"


class OnlyLogits(nn.Module):
    """The teacher whose logits a bank holds: it stands in the strategy and cannot be asked."""

    def __call__(self, *_, **__):
        raise ValueError("the teacher's logits on the training images are given, and no network that could be asked")


@dataclasses.dataclass(frozen=True)
class Given:
    """Logits from outside.

    Attributes:
        source: FILE.npy or "module:function", as the user gives it.
        sha256: of the file, or of the function's source file.
        classes: K.
        views: fixed views of each image that the logits are of; 0: of the images as they are.
        values: [V, N, K], mapped from the file; None for a function.
        function: images [M, H, W, C] uint8 -> logits [M, K]; None for a file.
    """

    source: str
    sha256: str
    classes: int
    views: int
    values: np.ndarray | None = None
    function: Callable | None = None

    @property
    def info(self) -> dict:
        """What a bank notes of its teacher."""
        return {"arch": self.source if self.function else "file"}

    def player(self, name: str, dataset: data.Dataset) -> tuple[Player, dict]:
        """(the network that stands for the teacher, its variables: none)."""
        return Player(name, OnlyLogits(), dataset.mean, dataset.std), {"params": {}, "batch_stats": {}}

    def logits(self, view: int, rows: np.ndarray, images: Callable[[], np.ndarray]) -> np.ndarray:
        """The logits of some images.

        Args:
            view: number of the fixed view, from 0.
            rows: [M] int, positions in the training split.
            images: returns these images [M, H, W, C], uint8, or float32 in [0, 1].

        Returns:
            [M, K] float32.

        Raises:
            UserError: the function raises, or returns something else. NonFiniteError: a logit is not finite.
        """
        if self.function is None:
            return np.asarray(self.values[view, rows], np.float32)
        shown = np.asarray(images())
        shown = shown if shown.dtype == np.uint8 else np.rint(255 * shown).astype(np.uint8)
        try:
            found = np.asarray(self.function(shown))
        except Exception as error:  # the user's own code may raise anything
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"--teacher_logits {self.source} raised on images {shown.shape} uint8:\n{text}") from None
        if found.shape != (len(rows), self.classes) or not np.issubdtype(found.dtype, np.floating):
            raise UserError(
                f"--teacher_logits {self.source} returned {found.shape} {found.dtype} for images {shown.shape}.\n"
                f"It must return logits {(len(rows), self.classes)}, as floats."
            )
        _check_finite(found, self.source, rows)
        return found.astype(np.float32)

    def compare(self, found: Mapping[str, np.ndarray], dataset: data.Dataset, say: Callable, warn: Callable) -> None:
        """Prints the accuracy of the logits on the training labels; warns where rows or classes seem out of order.

        Args:
            found: the arrays of the bank (`data.stored.DeviceBank`).
            dataset: with the labels.
            say, warn: take a line of text.
        """
        labels = dataset.train.labels
        known = labels >= 0
        if not known.any():
            return
        answers = found["indices"][0, :, 0] if "indices" in found else _argmax(found["values"][0])
        answers, labels = answers.astype(np.int64)[known], labels[known]
        top1 = 100 * float((answers == labels).mean())
        still = "" if self.views else " Every view of an image has the logits of the image without augmentation."
        say(f"Teacher's logits from {self.source}: top-1 {top1:.2f} % on the training labels.{still}")
        if better := orders.better(answers, labels, list(dataset.class_names)):
            how, order, accuracy = better
            listed = ", ".join(order[:6]) + ", ..." * (len(order) > 6)
            warn(f"the logits would be right on {accuracy:.2f} % with their classes in the order {listed} ({how}).")
        elif orders.no_better_than_chance(answers, labels):
            fix = "The function must return" if self.function else "Row i must belong to training image i, and hold"
            warn(
                f"the logits are right on {top1:.2f} % of the training images, and guessing reaches "
                f"{100 * orders.chance(labels):.2f} %. {fix} the scores of the dataset's classes, in their order."
            )


def load(source: str, dataset: data.Dataset, views: int) -> Given:
    """Finds the logits and checks everything that can be checked without asking about an image.

    Args:
        source: FILE.npy with logits [N, K] or [views, N, K], or "module:function".
        dataset: whose training images the logits are of.
        views: fixed views of each image; 0: the logits are of the unaugmented images, and training draws fresh views.

    Raises:
        UserError: no such file or function, or a file of another kind, shape or type. NonFiniteError: a logit in the
            file is not finite.
    """
    path = pathlib.Path(source).expanduser()
    if not path.exists() and ":" in source:
        function = FUNCTIONS.get(source)
        try:
            code = pathlib.Path(inspect.getsourcefile(function)).read_bytes()
        except (TypeError, OSError):  # a function that no file defines
            code = source.encode()
        return Given(source, hashlib.sha256(code).hexdigest(), dataset.num_classes, views, function=function)
    values = _values(path, source)
    count, classes, shape = len(dataset.train), dataset.num_classes, values.shape
    if values.ndim not in (2, 3) or shape[-2:] != (count, classes) or 0 in shape:
        raise UserError(
            f"--teacher_logits {source} has the shape {shape}. {dataset.name} has {count:,} training images of "
            f"{classes} classes:\nit must be ({count}, {classes}), or (views, {count}, {classes})."
        )
    if values.ndim == 3 and shape[0] != views:
        raise UserError(
            f"--teacher_logits {source} has logits of {shape[0]} views of each image, and --teacher_views is {views}.\n"
            f"Add --teacher_views {shape[0]}."
        )
    if values.ndim == 2 and views:
        raise UserError(
            f"--teacher_logits {source} has one row for each image, and --teacher_views {views} asks for {views}.\n"
            "Leave --teacher_views out: every view of an image then has the logits of its row."
        )
    for view in values if values.ndim == 3 else [values]:
        step = max(1, BLOCK // classes)
        for first in range(0, count, step):
            _check_finite(view[first : first + step], source, np.arange(first, count))
    return Given(source, sha256(path), classes, views, values if values.ndim == 3 else values[None])


def _values(path: pathlib.Path, source: str) -> np.ndarray:
    """The array of a .npy file, mapped; nothing in the file is executed."""
    try:
        with path.open("rb") as file:
            head = file.read(len(HEAD))
        if head != HEAD:
            raise UserError(
                f"--teacher_logits {source} is no .npy file.\nSave the logits with numpy.save(FILE, array)."
            )
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"--teacher_logits {source}: {os.strerror(error.errno) if error.errno else error}.\n"
            "Give a FILE.npy of logits, or module:function."
        ) from None
    except ValueError as error:
        raise UserError(
            f"--teacher_logits {source} cannot be read: {str(error).splitlines()[0]}\n"
            "Save the logits with numpy.save(FILE, array), as an array of floats."
        ) from None
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(
            f"--teacher_logits {source} holds {values.dtype}. Logits are floats: the scores before the softmax."
        )
    return values


def _check_finite(logits: np.ndarray, source: str, rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if len(bad):
        raise NonFiniteError(
            f"--teacher_logits {source}: the logits of training image {rows[bad[0]]} are not finite ({len(bad)} such "
            "images in a block)."
        )


def _argmax(values: np.ndarray) -> np.ndarray:
    """[N] int of [N, K], some rows at a time: the values may lie in a file."""
    step = max(1, BLOCK // values.shape[-1])
    return np.concatenate([values[first : first + step].argmax(axis=-1) for first in range(0, len(values), step)])
