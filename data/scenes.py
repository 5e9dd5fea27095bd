"""Scenes: several of Shapes' objects a picture, with boxes and masks, to train detectors without a download."""

import functools
import hashlib

import numpy as np

from data.dataset import Augmentation, Dataset, Split, channel_statistics
from data.objects import Found, gathered
from data.shapes import CONTRAST, SHAPES, texture

SIDE, TRAIN, TEST = 64, 2400, 200
MOST = 4  # objects of a picture
RADII = 5.0, 16.0  # of an object, pixels
EMPTY, CROWDED = 0.03, 0.04  # shares of the pictures without an object, and with a crowd
MEMBERS, SMALL, SPREAD = (8, 14), 2.5, 9.0  # of a crowd: numbers of its members, their radius, the crowd's radius
VISIBLE = 0.6  # least share of an object that no later object hides
TRIES = 20  # places that are tried for an object


def load(data_dir: str = "") -> Dataset:
    """Data for detection: 2,600 drawings of 1 to 4 shapes each, 64x64, 3 channels; 2,400 to train on.

    Source: drawn by this code from a fixed seed

    The classes are those of Shapes. Objects differ in size and colour, may overlap, and lie on a texture with strokes
    that are no objects. A few pictures have no object. A few have a crowd: many small objects of one class that touch
    each other, with one box. A box is the smallest around the visible pixels of its object, and an area is their
    number. Both splits have `masks`, the pixels of all objects.
    """
    train, test = _draw(TRAIN, 2), _draw(TEST, 3)
    mean, std = channel_statistics(train[0])
    digest = hashlib.sha256()
    for images, objects, masks in (train, test):
        for array in (images, objects.boxes, objects.classes, objects.crowd, masks):
            digest.update(array)
    return Dataset(
        name="Scenes",
        train=Split.of(*train),
        test=Split.of(*test),
        class_names=tuple(SHAPES),
        mean=mean,
        std=std,
        augmentation=Augmentation(flip=True),
        fingerprint=digest.hexdigest(),
        task="detection",
    )


@functools.cache
def _draw(count: int, seed: int) -> tuple:
    """Images [N, 64, 64, 3] uint8, their objects, masks [N, 64, 64] bool. NumPy keeps the streams of RandomState."""
    random = np.random.RandomState(seed)
    images, masks = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty((count, SIDE, SIDE), bool)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = []
    for i in range(count):
        image = texture(rows, columns, random)
        for _ in range(random.randint(2, 6)):
            image[_stroke(rows, columns, random)] = random.uniform(0, 255, 3)
        kind = random.uniform()
        things = _arranged(rows, columns, random, crowded=kind > 1 - CROWDED) if kind > EMPTY else []
        owner = np.full((SIDE, SIDE), -1)
        for number, (_, _, mask) in enumerate(things):
            behind, colour = image[mask].mean(axis=0), random.uniform(0, 255, 3)
            while np.linalg.norm(colour - behind) < CONTRAST:
                colour = random.uniform(0, 255, 3)
            image[mask], owner[mask] = colour, number
        image += random.uniform(-14, 14.5, image.shape)  # deviation 8; normal numbers take longer
        images[i], masks[i] = np.clip(image, 0, 255), owner >= 0
        found.append([_found(label, crowd, owner == number) for number, (label, crowd, _) in enumerate(things)])
    ones = np.ones(count)
    return images, gathered(found, SIDE * np.ones((count, 2)), ones), masks


def _arranged(rows, columns, random: np.random.RandomState, crowded: bool) -> list[tuple[int, bool, np.ndarray]]:
    """(class, whether a crowd, pixels [H, W] bool) of each thing, in the order in which they are painted."""
    things = []
    for number in range(random.randint(1, MOST + 1)):
        crowd, label = crowded and number == 0, random.randint(len(SHAPES))
        for _ in range(TRIES):
            radius = SPREAD + SMALL if crowd else random.uniform(*RADII)
            centre = random.uniform(radius, SIDE - 1 - radius, 2)
            if crowd:
                places = centre + random.uniform(-SPREAD, SPREAD, (random.randint(*MEMBERS), 2))
                mask = np.any([_cover(rows, columns, label, place, SMALL) for place in places], axis=0)
            else:
                mask = _cover(rows, columns, label, centre, radius)
            if all((own & ~mask).sum() >= VISIBLE * whole for whole, (_, _, own) in things):
                things = [(whole, (kind, many, own & ~mask)) for whole, (kind, many, own) in things]
                things.append((mask.sum(), (label, crowd, mask)))
                break
    return [thing for _, thing in things]


def _cover(rows, columns, label: int, centre: np.ndarray, radius: float) -> np.ndarray:
    return list(SHAPES.values())[label]((columns - centre[1]) / radius, (rows - centre[0]) / radius)


def _stroke(rows, columns, random: np.random.RandomState) -> np.ndarray:
    """The pixels [H, W] bool of a line, 1 to 2.5 pixels wide and 8 to 40 long."""
    row, column = random.uniform(0, SIDE, 2)
    angle, half, width = random.uniform(0, np.pi), random.uniform(4, 20), random.uniform(0.5, 1.25)
    along = np.cos(angle) * (columns - column) + np.sin(angle) * (rows - row)
    across = np.cos(angle) * (rows - row) - np.sin(angle) * (columns - column)
    return (abs(along) <= half) & (abs(across) <= width)


def _found(label: int, crowd: bool, mask: np.ndarray) -> Found:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return Found(box, label, crowd, mask.sum())
