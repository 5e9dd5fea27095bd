"""Images and labels out of the records that TensorFlow Datasets prepares, decoded by threads.

Decoding 50,000 small images on one core takes seconds. array_record and OpenCV release Python's lock while they work,
so the threads of a pool share a split out.
"""

import concurrent.futures
import pathlib
import threading

import cv2  # of small images, two to three times as fast as Pillow, and bit for bit the same
import numpy as np

CHUNK = 1000  # examples that are read at once


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
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    # tfds would check each example against its features, which takes as long as decoding it
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = tfds.builder_from_directory(str(folder)).as_data_source(split, deserialize_method=raw)
    shape, count = source.dataset_info.features["image"].shape, len(source)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)

    def fill(first: int) -> None:
        if not threading.main_thread().is_alive():
            raise RuntimeError("the process is ending")  # and waits for this pool; half a split must not be kept
        rows = range(first, min(first + CHUNK, count))
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            features = tf_example_pb2.Example.FromString(record).features.feature
            images[i] = _image(features["image"].bytes_list.value[0], shape)
            labels[i] = features["label"].int64_list.value[0]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, count, CHUNK)))  # raises the first error, and drops what has not begun
    return images, labels


def _image(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A PNG or JPEG of that shape."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)  # blue first
    found = "unreadable" if image is None else f"{(*image.shape, 1)[:3]} {image.dtype}"
    if found != f"{shape} uint8":
        raise ValueError(f"an image is {found}, not {shape} uint8")
    return image.reshape(shape)[..., ::-1]
