"""Measures weights on a dataset, for `evaluate.py` and for tables."""

from collections.abc import Iterable

import numpy as np

import data
import tasks
from configs.command import names_in
from models import Player
from pretrained import foreign
from pretrained.classes import class_note
from pretrained.players import fitted, player_of
from registry import UserError
from tasks.classification import Classification
from training.answers import Answers
from training.devices import here
from training.run_folder import warn


def measure(
    param: str,
    dataset: data.Dataset,
    teacher_param: str = "",
    arch: str = "",
    teacher_arch: str = "",
    teacher_image_size: int = 0,
    **torch: str,
) -> dict[str, float]:
    """Computes the task's metrics of the weights in `param` on the test split. With teachers, also compares with them.

    Args:
        param: a run folder, or a folder of weights.
        dataset: the dataset; its test split is used.
        teacher_param: the teacher's weights, or several teachers' joined by commas. The student is compared with the
            mean of the teachers' logits.
        arch, teacher_arch: as in `pretrained.players.player_of`; needed for networks whose code is outside the library.
        teacher_image_size: side in pixels at which the teachers see the images; 0: the dataset's.
        **torch: of teachers that are networks of PyTorch, as in `pretrained.foreign.load`.

    Raises:
        UserError: no weights, or weights that do not fit. All weights are checked before any network runs.
    """
    logits, teacher = answers([param], dataset, [arch], "network")[0], None
    if teacher_param:
        teacher = teacher_answers(teacher_param, dataset, teacher_arch, teacher_image_size, **torch)
    return tasks.of(dataset).metrics(logits, dataset.test.labels, teacher)


def teacher_answers(
    params: str, dataset: data.Dataset, archs: str = "", image_size: int = 0, **torch: str
) -> np.ndarray:
    """Returns the logits [N, K] of the teachers in `params` on the test split, as the mean over the teachers."""
    names, types = names_in(params), names_in(archs)
    if types and len(types) != len(names):
        raise UserError(f"--teacher_arch names {len(types)} networks and --teacher_param {len(names)} weights.")
    return np.mean(answers(names, dataset, types or [""] * len(names), "teacher", image_size, **torch), axis=0)


def answers(
    params: list[str], dataset: data.Dataset, archs: list[str], role: str, image_size: int = 0, **torch: str
) -> list[np.ndarray]:
    """Returns the answers on the test split for each folder of weights: logits [N, K] float32, or a task's own.

    The classes are the dataset's, in its order. A warning says where classes or sizes of images are not those of the
    weights, and which layers no loss has trained. Teachers' batch norms are folded as in training.
    """
    loaded = [foreign.load(param, arch, dataset, **torch) for param, arch in zip(params, archs, strict=True)]
    loaded = [fitted(weights, dataset, role, warn, image_size=image_size) for weights in loaded]
    for weights in loaded:
        if layers := weights.info.get("untrained"):
            warn(f"no loss has trained {', '.join(layers)} of the {role} in {weights.folder}: its logits mean nothing.")
    players = []
    for weights, arch in zip(loaded, archs, strict=True):
        frozen = role == "teacher"
        players.append(player_of(weights, role, arch=arch, frozen=frozen, dataset=dataset, image_size=image_size))
    found = answers_to(players, dataset.test.blocks(), tasks.of(dataset))
    for weights, logits in zip(loaded, found, strict=True):
        if note := class_note(role, weights.info, dataset, logits, dataset.test.labels):
            warn(note)
    return found


def logits_of(player: Player, variables: dict, dataset: data.Dataset) -> np.ndarray:
    """Returns the answers [N, ...] of a network on the test split: logits [N, K] float32, or a task's own."""
    return answers_to([(player, variables)], dataset.test.blocks(), tasks.of(dataset))[0]


def answers_to(
    players: list[tuple[Player, dict]],
    blocks: Iterable[np.ndarray],
    task=Classification(),  # noqa: B008  # immutable
) -> list[np.ndarray]:
    """Returns the answers [N, ...] of each (network, variables) on blocks of images [M, H, W, C] uint8, joined."""
    asked, found = [], [[] for _ in players]
    for block in blocks:
        images = here().place(block)
        asked = asked or [Answers(player, here(), task) for player, _ in players]
        for answers, (_, variables), parts in zip(asked, players, found, strict=True):
            parts.append(answers(variables, images))
    return [np.concatenate(parts) for parts in found]
