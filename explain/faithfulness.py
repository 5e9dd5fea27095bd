"""All measures of one network's maps on a split, and the similarity of students' maps to a teacher's."""

from collections.abc import Callable, Sequence

import numpy as np

from explain import metrics
from explain.similarity import paired_interval, similarity
from explain.subject import Subject

SANITY_IMAGES = 100  # `sanity` computes all maps once for each module


def faithfulness(
    subject: Subject, explanation: Callable, images: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None
) -> dict[str, float | list | dict]:
    """Measure how faithful an explanation's maps are to a network.

    Args:
        subject: the network.
        explanation: as for `Subject.maps`.
        images: [N, H, W, C] uint8.
        labels: [N] int.
        masks: [N, H, W] bool, the pixels of each image's object; or None.

    Returns:
        Means over the images. AUC is the area under the curve over the share of pixels, in percent.
        top1: accuracy on the unchanged images, percent.
        positive_predicted, negative_predicted: AUC of the accuracy while pixels become black, the most important first
            (positive; lower is better) or the least important first (negative; higher is better), by maps of the
            predicted class.
        positive_target, negative_target: the same by maps of the label's class.
        random: the same with the pixels in random order, as a baseline.
        curves: name of each of these five -> accuracies (percent) at 0, 10 ... 100 % of the pixels.
        deletion: AUC of the probability of the predicted class while pixels become the mean colour (lower is better).
        insertion: the same while pixels of a blurred image are restored (higher is better).
        sparsity: Gini index of the maps of the predicted class.
        sanity: module -> rank correlation (`metrics.sanity`), on the first 100 images.
        With masks, by maps of the label's class, in percent: pointing (tolerance 15/224 of the shorter side), iou, and
        map (mean average precision).
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


def teacher_similarity(
    teacher: Subject, students: Sequence[Subject], explanation: Callable, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the similarity of students' maps to the teacher's. All maps explain the class that the teacher predicts.

    Args:
        teacher: the teacher.
        students: R networks.
        explanation: as for `Subject.maps`.
        images: [N, H, W, C] uint8.

    Returns:
        Name of the measure (`similarity.MEASURES`) -> [R, N].
    """
    classes = teacher.answers(images)[0].argmax(axis=1)
    taught = teacher.maps(explanation, images, classes)
    found = [similarity(student.maps(explanation, images, classes), taught) for student in students]
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, dict]:
    """Compute `paired_interval` of every measure of two groups of students, from their `teacher_similarity`."""
    return {name: paired_interval(first[name], second[name]) for name in first}
