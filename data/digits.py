"""Digits: 1,797 scans of handwritten digits, 8x8 grey, embedded in the package."""

import pathlib

import numpy as np

from data.dataset import Augmentation, Dataset, Split, channel_statistics

TRAIN = 1200
# images [1797, 8, 8] uint8, 0 to 16, and labels [1797] uint8: a copy of scikit-learn's `load_digits()`. Importing
# scikit-learn is slow.
FILE = pathlib.Path(__file__).with_name("digits.npz")


def load(data_dir: str = "") -> Dataset:
    """1,797 handwritten digits, 8x8, 1 channel; 1,200 to train on, 597 to test on. Needs no download.

    Source: Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0), the part in
    scikit-learn

    The split is one fixed shuffle. The file is ordered by writer, so a test split from its end would have other writers
    than the training split.
    """
    with np.load(FILE) as file:
        images = np.round(file["images"][..., None] * (255 / 16)).astype(np.uint8)
        labels = file["labels"].astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[:TRAIN], order[TRAIN:]
    mean, std = channel_statistics(images[train])
    return Dataset(
        name="Digits",
        train=Split.of(images[train], labels[train]),
        test=Split.of(images[test], labels[test]),
        class_names=tuple(str(d) for d in range(10)),
        mean=mean,
        std=std,
        augmentation=Augmentation(),
    )
