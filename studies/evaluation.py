"""Weights measured on a dataset: one call for `evaluate.py` and for tables."""

import numpy as np

import data
import pretrained
import tasks
from configs.command import names_in
from models import Player
from pretrained.players import check_fits, class_note, player_of
from registry import UserError
from training.answers import Answers
from training.devices import here
from training.run_folder import warn


def measure(
    param: str, dataset: data.Dataset, teacher_param: str = "", arch: str = "", teacher_arch: str = ""
) -> dict[str, float]:
    """The task's metrics of the weights in `param` on the test split; with teachers, against them too.

    Args:
        param: a run folder, or a folder of weights.
        dataset: whose test split is measured.
        teacher_param: of one teacher, or of several joined by commas: the student is compared with their mean logits.
        arch, teacher_arch: as in `pretrained.players.player_of`: needed for networks that are code outside the library.

    Raises:
        UserError: no weights, or weights that do not fit; found before any network runs.
    """
    logits, teacher = answers([param], dataset, [arch], "network")[0], None
    if teacher_param:
        teacher = teacher_answers(teacher_param, dataset, teacher_arch)
    return tasks.create("classification").metrics(logits, dataset.test.labels, teacher)


def teacher_answers(params: str, dataset: data.Dataset, archs: str = "") -> np.ndarray:
    """Logits [N, K] of the teachers in `params` on the test split: their mean where there are several."""
    names, types = names_in(params), names_in(archs)
    if types and len(types) != len(names):
        raise UserError(f"--teacher_arch names {len(types)} networks and --teacher_param {len(names)} weights.")
    return np.mean(answers(names, dataset, types or [""] * len(names), "teacher"), axis=0)


def answers(params: list[str], dataset: data.Dataset, archs: list[str], role: str) -> list[np.ndarray]:
    """Logits [N, K] float32 on the test split of each folder of weights, in the order of the dataset's classes.

    Teachers are folded as in training. Classes that do not match the dataset's are warned of.
    """
    loaded = [pretrained.load(param) for param in params]
    for weights in loaded:
        check_fits(weights, dataset, role)
    images, found = here().place(dataset.test.images), []
    for weights, arch in zip(loaded, archs, strict=True):
        frozen = role == "teacher"
        player, variables = player_of(weights, role, arch=arch, frozen=frozen, class_names=dataset.class_names)
        found.append(Answers(player, images, here())(variables))
        if note := class_note(role, weights.info, dataset, found[-1], dataset.test.labels):
            warn(note)
    return found


def logits_of(player: Player, variables: dict, dataset: data.Dataset) -> np.ndarray:
    """Logits [N, K] float32 of a network on the test split."""
    return Answers(player, here().place(dataset.test.images), here())(variables)
