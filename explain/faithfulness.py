"""Everything that is measured of one network's maps over a split, and of a student's maps against a teacher's."""

from collections.abc import Callable, Sequence

import numpy as np

from explain import metrics
from explain.similarity import paired_interval, similarity
from explain.subject import Subject

SANITY_IMAGES = 100  # randomising repeats all maps once a module


def faithfulness(
    subject: Subject, explanation: Callable, images: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None
) -> dict[str, float | list | dict]:
    """Measures of an explanation's maps of a network.

    Args:
        subject: the network.
        explanation: (model, variables, images, target) -> maps.
        images: [N, H, W, C] uint8.
        labels: [N] int.
        masks: [N, H, W] bool, or None.

    Returns:
        Means over the images:
        top1: percent, of the images as they are.
        positive_predicted, negative_predicted: AUC (percent) of the accuracy while pixels become black, most important
            first (lower is better) and last (higher is better), by maps of the predicted class; positive_target,
            negative_target by maps of the label; random the same in random order, to compare with.
        curves: the accuracies (percent) at 0, 10 ... 100 % behind the five.
        deletion, insertion: AUC of the predicted class's probability (lower, higher is better).
        sparsity: Gini index of the predicted class's maps.
        sanity: module -> rank correlation (`metrics.sanity`), on the first 100 images.
        With masks, of the maps of the label: pointing (percent; tolerance 15/224 of the side), iou, map (mean average
            precision), both percent.
    """
    logits, _ = subject.answers(images)
    predicted = logits.argmax(axis=1)
    maps = {"predicted": subject.maps(explanation, images, predicted)}
    maps["target"] = subject.maps(explanation, images, labels)
    chance = np.random.RandomState(0).uniform(size=images.shape[:3])
    result = {"top1": 100 * float((predicted == labels).mean())}
    orders = {f"positive_{kind}": metrics.ranks(m) for kind, m in maps.items()}
    orders |= {f"negative_{kind}": metrics.ranks(m, last_first=True) for kind, m in maps.items()}
    orders["random"] = metrics.ranks(chance)
    curves = {}
    for name, rank in orders.items():
        accuracy = metrics.hits(metrics.perturb(subject, images, rank), labels).mean(axis=1)
        curves[name] = [100 * float(x) for x in accuracy]
        result[name] = float(metrics.auc(curves[name]))
    result["curves"] = curves
    for name, fill in (("deletion", "mean"), ("insertion", "inserted")):
        probabilities = metrics.perturb(subject, images, orders["positive_predicted"], fill=fill)
        of_class = np.take_along_axis(probabilities, predicted[None, :, None], axis=2)[..., 0]
        result[name] = 100 * float(metrics.auc(of_class).mean())
    result["sparsity"] = float(metrics.sparsity(maps["predicted"]).mean())
    few = slice(SANITY_IMAGES)
    result["sanity"] = metrics.sanity(subject, explanation, images[few], predicted[few])
    if masks is not None:
        tolerance = round(min(images.shape[1:3]) * 15 / 224)
        result["pointing"] = 100 * float(metrics.pointing(maps["target"], masks, tolerance).mean())
        result["iou"] = 100 * float(metrics.iou(maps["target"], masks).mean())
        result["map"] = 100 * float(metrics.average_precision(maps["target"], masks).mean())
    return result


def likeness(
    teacher: Subject, students: Sequence[Subject], explanation: Callable, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Similarity of each student's maps to the teacher's, of the class that the teacher predicts: measure -> [R, N]."""
    classes = teacher.answers(images)[0].argmax(axis=1)
    taught = teacher.maps(explanation, images, classes)
    found = [similarity(student.maps(explanation, images, classes), taught) for student in students]
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, dict]:
    """`paired_interval` of every measure of two groups of students (`likeness`), such as by method and by labels."""
    return {name: paired_interval(first[name], second[name]) for name in first}
