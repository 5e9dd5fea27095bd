"""Images and labels out of the records that TensorFlow Datasets prepares, decoded by several processes.

Python decodes small images on one core. So a large split is shared out to helpers, which are this file run as a script;
meanwhile the caller's process can do something else. The file imports nothing of the library, and as a script nothing
of tfds but the records' format: that takes seconds.
"""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import types

import cv2  # of small images, two to three times as fast as Pillow, and bit for bit the same
import numpy as np

CHUNK = 1000  # examples that are read at once
SHARE = 10_000  # examples, at least, that are worth the start of a process
MOST = 8  # processes


def read(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A split of a dataset prepared as array_record.

    Args:
        folder: of one version of the dataset, with its `dataset_info.json`.
        split: "train" or "test".

    Returns:
        images [N, H, W, C] uint8, labels [N] int32.

    Raises:
        Exception: of many kinds, where the records are damaged.
    """
    source = _source(folder, split)
    shape, count = source.dataset_info.features["image"].shape, len(source)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = min(cores, MOST, count // SHARE)
    if cores == 1 or not parts:
        _decode(source, 0, images, labels)
        return images, labels
    bounds = [count * part // parts for part in range(parts + 1)]
    shares = [slice(*pair) for pair in itertools.pairwise(bounds)]
    files = _files(source)
    with contextlib.ExitStack() as stack:
        helpers = [_Helper(stack, shape, files, rows) for rows in shares]
        for helper, rows in zip(helpers, shares, strict=True):
            if not helper.take(images[rows], labels[rows]):
                _decode(source, rows.start, images[rows], labels[rows])
    return images, labels


def _source(folder: pathlib.Path, split: str):
    import tensorflow_datasets as tfds

    # tfds would check each example against its features, which takes as long as decoding it
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return tfds.builder_from_directory(str(folder)).as_data_source(split, deserialize_method=raw)


def _files(source) -> list[str]:
    """Where the records are, as `array_record` takes it: files, each with its first record and the one after."""
    parts = source.dataset_info.splits[source.split].file_instructions
    return [f"{os.fspath(part.filename)}[{part.skip}:{part.skip + part.take}]" for part in parts]


def _decode(source, start: int, images: np.ndarray, labels: np.ndarray, go_on=lambda: True) -> None:
    """Fills the arrays with the examples from `start` on."""
    from tensorflow_datasets.proto import tf_example_pb2

    for first in range(0, len(labels), CHUNK):
        rows = range(first, min(first + CHUNK, len(labels)))
        for i, record in zip(rows, source.__getitems__([start + i for i in rows]), strict=True):
            features = tf_example_pb2.Example.FromString(record).features.feature
            images[i] = _image(features["image"].bytes_list.value[0], images.shape[1:])
            labels[i] = features["label"].int64_list.value[0]
        if not go_on():
            sys.exit(1)


def _image(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A PNG or JPEG of that shape."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)  # blue first
    found = "unreadable" if image is None else f"{(*image.shape, 1)[:3]} {image.dtype}"
    if found != f"{shape} uint8":
        raise ValueError(f"an image is {found}, not {shape} uint8")
    return image.reshape(shape)[..., ::-1]


class _Helper:
    """A process that decodes some rows into a file that has no name, so that nothing stays of it."""

    def __init__(self, stack: contextlib.ExitStack, shape: tuple[int, int, int], files: list[str], rows: slice):
        what = ["x".join(map(str, shape)), *files, str(rows.start), str(rows.stop)]
        command = [sys.executable, "-P", __file__, str(os.getpid()), *what]
        self._process = None
        with contextlib.suppress(OSError):  # no room for a file, no process left: whoever asked decodes it
            self._file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
            streams = {"stdin": subprocess.DEVNULL, "stdout": self._file, "stderr": subprocess.DEVNULL}
            self._process = stack.enter_context(subprocess.Popen(command, **streams))
            stack.callback(self._process.kill)

    def take(self, images: np.ndarray, labels: np.ndarray) -> bool:
        """Fills the arrays with what was decoded; False where it failed."""
        if not self._process or self._process.wait():
            return False
        if self._file.seek(0, os.SEEK_END) != images.nbytes + labels.nbytes:  # something else wrote there, too
            return False
        self._file.seek(0)
        return all(self._file.readinto(memoryview(array).cast("B")) == array.nbytes for array in (images, labels))


def _main(parent: str, shape: str, *files_and_rows: str) -> None:
    """Writes the images of some rows of the files to the standard output, then their labels."""
    *files, start, stop = files_and_rows
    package = types.ModuleType("tensorflow_datasets")  # without what its own __init__ imports, for `_decode`
    package.__path__ = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations
    sys.modules["tensorflow_datasets"] = package
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    count = int(stop) - int(start)
    images = np.empty((count, *map(int, shape.split("x"))), np.uint8)
    labels = np.empty(count, np.int32)
    source = ArrayRecordDataSource(files)
    _decode(source, int(start), images, labels, lambda: os.getppid() == int(parent))  # else nobody waits
    for array in (images, labels):
        sys.stdout.buffer.write(array)


if __name__ == "__main__":
    _main(*sys.argv[1:])
