"""Digits: scikit-learn's 1,797 scans of handwritten digits, 8x8 grey, embedded in the package."""

import numpy as np

from data.dataset import Augmentation, Dataset, Split, channel_statistics

TRAIN = 1200


def load(data_dir: str = "", image_size: int = 0) -> Dataset:
    """1,797 handwritten digits, 8x8, 1 channel; 1,200 to train on, 597 to test on. Needs no download.

    Source: Alpaydin, Kaynak, UCI 1998, through scikit-learn

    The split is one fixed shuffle: the file is ordered by writer, and its end alone would test on other hands.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
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
