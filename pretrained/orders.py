"""Checks whether a network's outputs and a dataset's labels have the classes in the same order.

A network has its classes in the order of its training folders. Programs sort folders as "0, 1, 10, 2" or "0, 1, 2, 10".
A wrong order makes a good network look like a guess.
"""

import re

import numpy as np
import scipy.optimize
import scipy.special

SURE = 0.01  # if guessing reaches a result with a higher probability, the result says nothing
GAIN, SHARE = 0.1, 0.5  # a far better order adds GAIN to the accuracy and leaves at most SHARE of the errors
ORDERS = {  # how programs sort class names
    "as numbers": lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)],
    "as text": lambda name: name,
    "as text without leading zeros": lambda name: re.sub(r"\b0+(?=\d)", "", name),
    "as text, capitals and small letters alike": lambda name: (name.casefold(), name),
}


def chance(labels: np.ndarray) -> float:
    """The accuracy, in [0, 1], of always answering the most frequent class. `labels` is [N] int."""
    return float(np.bincount(labels).max() / len(labels))


def no_better_than_chance(prediction: np.ndarray, labels: np.ndarray) -> bool | None:
    """Whether guessing reaches this number of right answers with a probability of more than `SURE`.

    Args:
        prediction: [N] int, the answers.
        labels: [N] int.

    Returns:
        True or False; None if the images are too few to tell a perfect network from a guess.
    """
    n, p = len(labels), chance(labels)
    if p == 1 or p**n > SURE:
        return None
    hits = int((prediction == labels).sum())
    return bool(hits == 0 or scipy.special.bdtrc(hits - 1, n, p) > SURE)


def better(prediction: np.ndarray, labels: np.ndarray, names: list[str]) -> tuple[str, list[str], float] | None:
    """Finds another order of the classes in which far more of the answers are right.

    Args:
        prediction: [N] int, numbers of the network's outputs.
        labels: [N] int, numbers in `names`.
        names: the dataset's classes, in its order.

    Returns:
        (a description of the order, the class names in the order of the network's outputs, the accuracy in percent), or
        None. An order that programs sort by is preferred. Otherwise the best assignment of outputs to classes is found
        on one half of the images and counted on the other half, so chance alone does not suggest an order.
    """
    now = float((prediction == labels).mean())
    found = []
    for description, key in ORDERS.items():
        order = sorted(names, key=key)
        number = np.array([order.index(name) for name in names])
        found.append((f"sorted {description}", order, float((prediction == number[labels]).mean())))
    found.append(_assigned(prediction, labels, names))
    for description, order, accuracy in found:
        far = accuracy >= now + GAIN and 1 - accuracy <= SHARE * (1 - now)
        hits = round(accuracy * len(labels))
        if far and scipy.special.bdtrc(hits - 1, len(labels), max(now, chance(labels))) < SURE:
            return description, order, 100 * accuracy
    return None


def _assigned(prediction: np.ndarray, labels: np.ndarray, names: list[str]) -> tuple[str, list[str], float]:
    """The best assignment of outputs to classes, by all images.

    The accuracy is counted on each half of the images with the assignment of the other half.
    """
    outputs = np.arange(len(prediction))
    rank = np.zeros(len(labels), int)  # the images of every class go to both halves in turn
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    hits = 0
    for half in (0, 1):
        by, counted = outputs[rank % 2 != half], outputs[rank % 2 == half]
        class_of = _assignment(prediction[by], labels[by], len(names))
        hits += int((class_of[prediction[counted]] == labels[counted]).sum())
    class_of = _assignment(prediction, labels, len(names))
    return "found from the images", [names[c] for c in class_of], hits / len(labels)


def _assignment(prediction: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """[K] int: the class of each output, in the one-to-one assignment with the most right answers."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (prediction, labels), 1)
    return scipy.optimize.linear_sum_assignment(counts, maximize=True)[1]
