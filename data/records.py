"""Reads images and labels from the records that TensorFlow Datasets prepares, with a pool of threads.

Decoding 50,000 small images on one core takes seconds. array_record and OpenCV release Python's lock while they work,
so threads can divide a split among them.
"""

import concurrent.futures
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2  # two to three times as fast as Pillow for small images, with the same bits
import numpy as np

CHUNK, FEW = 1000, 100  # examples that are read at once; records that may hold large pictures
EVERY = 10.0  # seconds between two lines of progress


def read(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split of a dataset that was prepared as array_record.

    Args:
        folder: the folder of one version of the dataset, with `dataset_info.json`.
        split: "train" or "test".

    Returns:
        images [N, H, W, C] uint8, labels [N] int32.

    Raises:
        Exception: the records are damaged; there are many kinds of such errors.
    """
    source = raw_source(folder, split)
    shape, count = source.dataset_info.features["image"].shape, len(source)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)

    def take(i: int, found) -> None:
        images[i] = _image(found["image"].bytes_list.value[0], shape)
        labels[i] = found["label"].int64_list.value[0]

    for _ in _each(source, take, CHUNK):
        pass
    return images, labels


def raw_source(folder: pathlib.Path, split: str):
    """The records of a prepared split, as bytes: tfds would check each example, which takes as long as decoding it."""
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return tfds.builder_from_directory(str(folder)).as_data_source(split, deserialize_method=raw)


def features(record: bytes):
    """Name -> feature of a record."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def every(source, take: Callable, what: str) -> None:
    """Calls `take(i, features)` for each record, in several threads; prints the progress of `what`."""
    said = time.monotonic()
    for done in _each(source, take, FEW):
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"Reading {what}: {done:,} of {len(source):,}", file=sys.stderr, flush=True)


def _each(source, take: Callable, size: int) -> Iterator[int]:
    """Calls `take(i, features)` for each record, in threads that read `size` records at once; yields how many are done.

    Raises the first error, and then leaves out what has not begun.
    """

    def fill(first: int) -> int:
        if not threading.main_thread().is_alive():
            raise RuntimeError("the process is ending")  # its end waits for this pool; half a split must not be kept
        rows = range(first, min(first + size, len(source)))
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            take(i, features(record))
        return rows.stop

    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield from pool.map(fill, range(0, len(source), size))


def _image(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes a PNG or JPEG of this shape."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)  # blue, green, red
    found = "unreadable" if image is None else f"{(*image.shape, 1)[:3]} {image.dtype}"
    if found != f"{shape} uint8":
        raise ValueError(f"an image is {found}, not {shape} uint8")
    return image.reshape(shape)[..., ::-1]
