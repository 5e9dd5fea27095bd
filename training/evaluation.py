"""Measuring weights on a dataset: one call for `evaluate.py` and for tables."""

import jax.numpy as jnp

import data
import models
import pretrained
from models.folding import fold
from registry import UserError
from training.metrics import evaluate
from training.step import Predictor
from transfer import Player


def player_of(weights: pretrained.Pretrained, name: str, dtype=jnp.float32, arch: str = "") -> tuple[Player, dict]:
    """The network that weights are of, with its own input statistics, and its variables.

    Args:
        weights: what `pretrained.load` gave.
        name: the player's role.
        dtype: compute type.
        arch: what the user says the network is; needed where it is code outside the library ("module:attribute"),
            because a file that came with weights shall not choose what is imported.

    Raises:
        UserError: an unknown architecture, or weights that do not fit it.
    """
    info = weights.info
    if ":" in info["arch"] and arch != info["arch"]:
        raise UserError(
            f"The weights in {weights.folder} are of '{info['arch']}', code outside this library.\n"
            f"If you trust it, say so: {'--teacher_arch' if name == 'teacher' else '--arch'} {info['arch']}"
        )
    model = models.create(info["arch"], info["num_classes"], dtype=dtype, **info.get("options", {}))
    return Player(name, model, tuple(info["mean"]), tuple(info["std"])), pretrained.check(weights, model)


def frozen_player_of(weights: pretrained.Pretrained, name: str, dtype=jnp.float32, arch: str = ""):
    """`player_of` for a network that is only asked: what it gives in evaluation mode, its batch norms folded."""
    player, variables = player_of(weights, name, dtype, arch)
    return player, fold(player.model, variables, weights.info["image_shape"])


def dataset_of(info: dict, options: dict) -> data.Dataset:
    """The dataset that weights are measured on.

    Args:
        info: what `model.json` says of them.
        options: may have `dataset`, `data_dir` and `image_size`; else the dataset and the size of their training.
    """
    name = options.get("dataset", info["dataset"])
    size = options.get("image_size", info["image_shape"][0] if name == "ImageFolder" else 0)
    return data.load(name, options.get("data_dir", ""), size)


def check_fits(weights: pretrained.Pretrained, dataset: data.Dataset, role: str, advice: str = "") -> None:
    """Raises `UserError` unless weights and data agree in the number of classes and of channels."""
    facts = (
        ("classes", weights.info["num_classes"], dataset.num_classes),
        ("channels", weights.info["image_shape"][-1], dataset.image_shape[-1]),
    )
    for what, theirs, ours in facts:
        if theirs != ours:
            raise UserError(
                f"The {role} in {weights.folder} has {theirs} {what} ({weights.info['dataset']}), "
                f"{dataset.name} has {ours}.{advice}"
            )


def measure(
    param: str, dataset: data.Dataset, teacher_param: str = "", arch: str = "", teacher_arch: str = ""
) -> dict[str, float]:
    """`training.metrics.evaluate` of the weights in `param` on the test split; with a teacher, against it too.

    `arch` and `teacher_arch` as in `player_of`: needed for networks that are code outside the library. Both are checked
    before either is run.
    """
    roles = [("network", param, arch)] + ([("teacher", teacher_param, teacher_arch)] if teacher_param else [])
    players = []
    for role, path, its_arch in roles:
        weights = pretrained.load(path)
        check_fits(weights, dataset, role)
        make = frozen_player_of if role == "teacher" else player_of  # as in training, to the last bit
        players.append(make(weights, role, arch=its_arch))
    logits = [Predictor(player, dataset.test.images)(variables) for player, variables in players]
    return evaluate(logits[0], dataset.test.labels, *logits[1:])
