"""Matches the classes of weights with those of a dataset, by name.

the same names                     taken as they are
the same names, another order      the classifier's outputs are put in the data's order
the data's names and others        the outputs of the data's classes are kept: softmax over these
"0", "1", ... on one side          the numbers match, and must be as many on both sides
weights of the dataset by name     the numbers match (a benchmark has one order of classes)
some of the data's, or none        no match: refused by all that reads class scores
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

import data
import models
import pretrained
from pretrained import orders
from registry import UserError

SHOWN = 3  # names in a message
TOLERANCE = 1.0  # points between a teacher's recorded and measured accuracy


def columns(info: dict, dataset: data.Dataset) -> list[int] | None:
    """Where each class of the data stands among the classes of weights.

    Args:
        info: what `model.json` says of the weights.
        dataset: the data.

    Returns:
        [K] numbers of the weights' classes. Empty: the classes are the data's as they stand. None: no match.
    """
    theirs, ours = list(map(_key, info["class_names"])), list(map(_key, dataset.class_names))
    if theirs == ours:
        return []
    if not only_numbered(theirs) and all(theirs.count(name) == 1 for name in ours):
        return [theirs.index(name) for name in ours]
    benchmark = dataset.labelled and info["dataset"] == dataset.name != "ImageFolder"
    numbered = benchmark or only_numbered(theirs) or only_numbered(ours)
    return [] if numbered and len(theirs) == len(ours) else None


def matched(weights: pretrained.Pretrained, dataset: data.Dataset, role: str) -> tuple[pretrained.Pretrained, str]:
    """Weights whose outputs are the data's classes.

    Args:
        weights: what `pretrained.load` returned.
        dataset: the data.
        role: "teacher" or "network", for messages.

    Returns:
        The weights, and a line for the user where the order or the number of their outputs changed. Weights without a
        match come back as they are (`mismatch`).

    Raises:
        UserError: the outputs cannot be changed, because no layer is named `classifier` and the network is no detector.
    """
    order, info = columns(weights.info, dataset), weights.info
    if not order:
        return weights, ""
    known = {"num_classes": len(order), "class_names": list(dataset.class_names)}
    note = f"the {role} has the classes of {dataset.name} in another order. They are matched by name."
    if len(order) < info["num_classes"]:
        known["test_top1"] = None  # of other classes
        note = (
            f"the {role} has {info['num_classes']:,} classes, and {dataset.name}'s {len(order):,} are among them. Its "
            "outputs for the others are cut off."
        )
    variables = in_order(weights.variables, order, weights)
    return dataclasses.replace(weights, variables=variables, info={**info, **known}), note


def only_numbered(names: Sequence[str]) -> bool:
    """Whether names say nothing: a conversion that knew no names wrote "0", "1", ... in this order."""
    return list(names) == [str(number) for number in range(len(names))]


def in_order(variables: dict, order: list[int], weights: pretrained.Pretrained) -> dict:
    """The variables with the outputs `order` of the classifier. Every reader of the network gets this order."""
    info = weights.info
    if models.is_detector(info["arch"]):
        model = models.create(info["arch"], info["num_classes"], **info.get("options", {}))
        return {**variables, "params": model.in_order(variables["params"], order)}
    last = [name for name in variables["params"] if name.startswith("classifier")]
    if not last:
        raise UserError(
            f"The weights in {weights.folder} have the data's classes in another order or among others, and "
            f"{info['arch']} has no layer named `classifier` whose outputs could be put in order.\n"
            "Name the network's last layer `classifier`, or rename the images' folders so that they sort in its order."
        )
    params = variables["params"]
    ordered = {name: {key: np.asarray(value)[..., order] for key, value in params[name].items()} for name in last}
    return {**variables, "params": {**params, **ordered}}


def mismatch(weights: pretrained.Pretrained, dataset: data.Dataset, role: str, advice: str = "") -> str:
    """What is wrong where `columns` finds no match; empty where it does."""
    info = weights.info
    if columns(info, dataset) is not None:
        return ""
    theirs, ours = info["class_names"], dataset.class_names
    if only_numbered(theirs) or only_numbered(ours):
        return (
            f"The {role} in {weights.folder} has {len(theirs)} classes ({info['dataset']}), "
            f"{dataset.name} has {len(ours)}.{advice}"
        )
    common = len({_key(name) for name in theirs} & {_key(name) for name in ours})
    reads_no_boxes = role == "teacher" and dataset.task == "classification"
    return (
        f"The {role} in {weights.folder} has the classes {_first(theirs)}, {dataset.name} has {_first(ours)}; "
        f"{common} of the data's {len(ours)} are among the {role}'s {len(theirs)}.\n"
        "If they are the same classes, write the data's names into `class_names` of its model.json, in its order."
        f"{' A method that reads no class scores needs no classes in common.' if reads_no_boxes else ''}"
    )


def in_common(
    info: dict, dataset: data.Dataset, logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Answers of weights that `matched` returned, restricted to images and outputs of the classes in common.

    Args:
        info: of the weights.
        dataset: the data.
        logits: [N, K] of the weights' classes.
        labels: [N] int, of the data's classes.

    Returns:
        (logits [M, L], labels [M] int); the same arrays where weights and data match. None: no image of a common class.
    """
    if columns(info, dataset) is not None:
        return logits, labels
    theirs, ours = list(map(_key, info["class_names"])), list(map(_key, dataset.class_names))
    numbered = only_numbered(theirs) or only_numbered(ours)
    pairs = [] if numbered else [(theirs.index(name), i) for i, name in enumerate(ours) if name in theirs]
    place = {number: i for i, (_, number) in enumerate(pairs)}
    rows = [row for row, label in enumerate(labels) if label in place]
    if not rows:
        return None
    return logits[rows][:, [there for there, _ in pairs]], np.array([place[label] for label in labels[rows]])


def class_note(
    role: str, info: dict, dataset: data.Dataset, logits: np.ndarray | None = None, labels: np.ndarray | None = None
) -> str:
    """A line for the user where classes are matched by number and may not be numbered alike; else empty.

    Args:
        role: "teacher" or "network", for the text.
        info: what `model.json` says of the weights.
        dataset: the data.
        logits: [N, K], the network's answers, in the order of `matched`; None: the names alone are compared.
        labels: [N] int, of the same images.
    """
    theirs, ours = info["class_names"], dataset.class_names
    if columns(info, dataset) != []:
        return ""
    note, other = "", list(map(_key, theirs)) != list(map(_key, ours)) and not only_numbered(theirs)
    if other:
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
        shown = ", ".join(f"class {i} is '{a}' there and '{b}' in the data" for i, a, b in pairs[:2])
        note = f"{len(pairs)} of the {role}'s {len(ours)} class names are not those of {dataset.name}: {shown}"
        note += f"{', ...' * (len(pairs) > 2)}. The classes are matched by their numbers."
    found = None
    asked = logits is not None and dataset.labelled and dataset.task == "classification"
    if asked and (other or only_numbered(theirs)):
        found = orders.better(logits.argmax(axis=1), labels, list(ours))
    if found:
        how, order, accuracy = found
        listed = ", ".join(order[:6]) + ", ..." * (len(order) > 6)
        note += f"{' ' * bool(note)}{'T' if note else 't'}he {role} would be right on {accuracy:.2f} % of the images "
        note += (
            f"with its classes in the order {listed} ({how}). Put that order into the `class_names` of its model.json."
        )
    return note


def tell_accuracy(
    weights: pretrained.Pretrained,
    dataset: data.Dataset,
    task,
    logits: np.ndarray,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    rows: np.ndarray | None = None,
) -> None:
    """Tells how good a teacher is on test images, and warns where that is not what was recorded.

    Args:
        weights: the teacher's.
        dataset: the data.
        task: what labels mean.
        logits: [M, K], its answers.
        say, warn: take a line for the user.
        rows: [M] int, indices of the test images; None: all.
    """
    if not dataset.labelled:
        return
    rows = np.arange(len(logits)) if rows is None else rows
    count, named = len(dataset.test), f"Teacher {weights.info['arch']} from {weights.folder}"
    if dataset.task != "classification":
        found = task.metrics(logits, dataset.test.labels[rows]).get(task.main)
        shown = "not defined" if found is None else f"{found:.2f} %"
        return say(f"{named}: test {task.main} {shown} on {len(rows):,} of {count:,} images")
    found = in_common(weights.info, dataset, logits, dataset.test.labels[rows])
    if found is None:
        return say(f"{named}: none of its classes are in {dataset.name}; its accuracy is not measured")
    some = f" on {len(rows):,} of {count:,} images" if len(rows) < count else ""
    measured, recorded = task.metrics(*found)["top1"], weights.info["test_top1"]
    if columns(weights.info, dataset) is None:
        return say(f"{named}: test top-1 {measured:.2f} % on the {found[0].shape[1]} classes in common{some}")
    say(f"{named}: test top-1 {measured:.2f} %{some}")
    # of a sample, three standard errors are chance
    chance = 0 if recorded is None else 3 * (recorded * (100 - recorded) * (1 / len(rows) - 1 / count)) ** 0.5
    if recorded is not None and abs(measured - recorded) > TOLERANCE + chance:
        warn(
            f"the teacher's recorded test top-1 is {recorded:.2f} % ({weights.info['dataset']}), here it has "
            f"{measured:.2f} %{some}. Check normalisation, class order and image size."
        )


def _key(name: str) -> str:
    """What a name is compared by: WordNet's number where the name begins with one, so ImageNet's folders match."""
    number = re.match(r"n\d{8}(?=\s|$)", name)
    return number[0] if number else name


def _first(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
