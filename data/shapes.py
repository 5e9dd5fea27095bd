"""Shapes: one coloured shape on a textured background, drawn with a known mask, to test explanation maps against."""

import hashlib

import numpy as np

from data.dataset import Augmentation, Dataset, Split, channel_statistics

SIDE, TRAIN, TEST = 32, 2400, 600
CONTRAST = 90.0  # least distance in RGB between a shape's colour and the mean of the background under it


def load(data_dir: str = "") -> Dataset:
    """3,000 drawings of six shapes, 32x32, 3 channels, with masks; 2,400 to train on, 600 to test on. No download.

    Source: drawn by this code from a fixed seed

    The class is the shape alone: colour, place, size and background are drawn independently of it. Both splits have
    `masks`. NumPy never changes the streams of RandomState, so every machine draws the same images.
    """
    train, test = _draw(TRAIN, np.random.RandomState(0)), _draw(TEST, np.random.RandomState(1))
    mean, std = channel_statistics(train[0])
    digest = hashlib.sha256(b"".join(a.tobytes() for a in (*train, *test))).hexdigest()
    splits = Split.of(*train), Split.of(*test)
    return Dataset("Shapes", *splits, tuple(SHAPES), mean, std, Augmentation(pad=2, flip=True), digest)


# (x, y) [H, W], relative to the shape's centre in units of its radius -> bool [H, W], the pixels of the shape
SHAPES = {
    "disc": lambda x, y: x**2 + y**2 <= 1,
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.85,
    "frame": lambda x, y: (np.maximum(abs(x), abs(y)) <= 0.9) & (np.maximum(abs(x), abs(y)) >= 0.5),
    "triangle": lambda x, y: (y <= 0.8) & (2 * abs(x) <= y + 1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.28) & (np.maximum(abs(x), abs(y)) <= 1),
}


def _draw(count: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] uint8, labels [N] int32 (equally many of each), masks [N, 32, 32] bool."""
    labels = random.permutation(np.arange(count, dtype=np.int32) % len(SHAPES))
    images, masks = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty((count, SIDE, SIDE), bool)
    covers = list(SHAPES.values())
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i, label in enumerate(labels):
        radius = random.uniform(5.0, 9.0)
        row, column = random.uniform(radius, SIDE - 1 - radius, 2)
        image = texture(rows, columns, random)
        masks[i] = covers[label]((columns - column) / radius, (rows - row) / radius)
        behind = image[masks[i]].mean(axis=0)
        colour = random.uniform(0, 255, 3)
        while np.linalg.norm(colour - behind) < CONTRAST:
            colour = random.uniform(0, 255, 3)
        image[masks[i]] = colour
        image += random.normal(0, 8, image.shape)
        images[i] = np.clip(np.round(image), 0, 255)
    return images, labels, masks


def texture(rows: np.ndarray, columns: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A background [H, W, 3] float: three gratings of random direction, wavelength and colour around a random mean."""
    image = np.full((*rows.shape, 3), random.uniform(60, 195, 3))
    for _ in range(3):
        angle, wavelength, phase = random.uniform(0, np.pi), random.uniform(3, 16), random.uniform(0, 2 * np.pi)
        along = np.cos(angle) * columns + np.sin(angle) * rows
        image += np.sin(2 * np.pi * along / wavelength + phase)[..., None] * random.uniform(-25, 25, 3)
    return image
