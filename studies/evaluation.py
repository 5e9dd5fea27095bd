"""Weights measured on a dataset: one call for `evaluate.py` and for tables."""

import data
import pretrained
import tasks
from pretrained.players import check_fits, player_of
from training.answers import Answers
from training.devices import here


def measure(
    param: str, dataset: data.Dataset, teacher_param: str = "", arch: str = "", teacher_arch: str = ""
) -> dict[str, float]:
    """The task's metrics of the weights in `param` on the test split; with a teacher, against the teacher too.

    `arch` and `teacher_arch` as in `player_of`: needed for networks that are code outside the library. Both are checked
    before either network runs.
    """
    roles = [("network", param, arch)] + ([("teacher", teacher_param, teacher_arch)] if teacher_param else [])
    players = []
    for role, path, its_arch in roles:
        weights = pretrained.load(path)
        check_fits(weights, dataset, role)
        players.append(player_of(weights, role, arch=its_arch, frozen=role == "teacher"))  # as in training, to the bit
    images = here().place(dataset.test.images)
    logits = [Answers(player, images, here())(variables) for player, variables in players]
    return tasks.create("classification").metrics(logits[0], dataset.test.labels, *logits[1:])
