"""Weights measured on a dataset: one call for `evaluate.py` and for tables."""

from collections.abc import Callable, Iterable
from operator import attrgetter

import numpy as np

import data
import pretrained
import tasks
from configs.command import names_in
from data.dataset import IMAGES
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
    return task_of(dataset).metrics(logits, dataset.test.labels, teacher)


def task_of(dataset: data.Dataset):
    """What the labels of a dataset mean."""
    return tasks.create("classification", labelled=dataset.labelled)


def teacher_answers(params: str, dataset: data.Dataset, archs: str = "") -> np.ndarray:
    """Logits [N, K] of the teachers in `params` on the test split: their mean where there are several."""
    names, types = names_in(params), names_in(archs)
    if types and len(types) != len(names):
        raise UserError(f"--teacher_arch names {len(types)} networks and --teacher_param {len(names)} weights.")
    return np.mean(answers(names, dataset, types or [""] * len(names), "teacher"), axis=0)


def answers(params: list[str], dataset: data.Dataset, archs: list[str], role: str) -> list[np.ndarray]:
    """Logits [N, K] float32 on the test split of each folder of weights, in the order of the dataset's classes.

    Teachers are folded as in training. Classes that do not match the dataset's, and logits that no loss has trained,
    are warned of.
    """
    loaded = [pretrained.load(param) for param in params]
    for weights in loaded:
        check_fits(weights, dataset, role)
        if layers := weights.info.get("untrained"):
            warn(f"no loss has trained {', '.join(layers)} of the {role} in {weights.folder}: its logits mean nothing.")
    players = []
    for weights, arch in zip(loaded, archs, strict=True):
        frozen = role == "teacher"
        players.append(player_of(weights, role, arch=arch, frozen=frozen, class_names=dataset.class_names))
    found = _logits(players, dataset.test)
    for weights, logits in zip(loaded, found, strict=True):
        labels = dataset.test.labels if dataset.labelled else None
        if note := class_note(role, weights.info, dataset, logits if dataset.labelled else None, labels):
            warn(note)
    return found


def logits_of(player: Player, variables: dict, dataset: data.Dataset) -> np.ndarray:
    """Logits [N, K] float32 of a network on the test split."""
    return _logits([(player, variables)], dataset.test)[0]


def _logits(players: list[tuple[Player, dict]], split: data.Split) -> list[np.ndarray]:
    """Logits [N, K] float32 of each (network, variables) on the images of a split, which are read once."""
    return _outputs(players, split.blocks(), attrgetter("logits"))


def embeddings_of(players: list[tuple[Player, dict]], split: data.Split) -> list[np.ndarray]:
    """Embeddings [N, D] float32 of each (network, variables) on the images of a split, which are read once.

    The device holds `IMAGES` images at a time.
    """
    parts = (block[i : i + IMAGES] for block in split.blocks() for i in range(0, len(block), IMAGES))
    return _outputs(players, parts, lambda outputs: outputs.features["embedding"].astype(np.float32))


def _outputs(players: list[tuple[Player, dict]], blocks: Iterable[np.ndarray], read: Callable) -> list[np.ndarray]:
    """What `read` takes from the `Outputs` of each (network, variables), on blocks of images one after the other."""
    asked, found = [], [[] for _ in players]
    for block in blocks:
        images = here().place(block)
        asked = asked or [Answers(player, images, here(), read) for player, _ in players]
        for answers, (_, variables), parts in zip(asked, players, found, strict=True):
            answers.images = images
            parts.append(answers(variables))
    return [np.concatenate(parts) for parts in found]
