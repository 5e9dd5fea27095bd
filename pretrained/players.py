"""Weights as networks in a role, and whether they fit a dataset."""

import jax.numpy as jnp

import data
import models
import pretrained
from models import Player
from models.folding import fold
from registry import UserError


def player_of(
    weights: pretrained.Pretrained, name: str, dtype=jnp.float32, arch: str = "", frozen: bool = False
) -> tuple[Player, dict]:
    """The network that weights are of, with its own input statistics, and its variables.

    Args:
        weights: what `pretrained.load` returned.
        name: the player's role.
        dtype: compute type.
        arch: the network's name as the user gives it; needed where the network is code outside the library
            ("module:attribute"), because a file that came with weights shall not choose what is imported.
        frozen: the network is only asked, in evaluation mode: its batch norms are folded into the layers before them.

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
    variables = pretrained.check(weights, model)
    variables = fold(model, variables, info["image_shape"]) if frozen else variables
    return Player(name, model, tuple(info["mean"]), tuple(info["std"])), variables


def dataset_of(info: dict, options: dict) -> data.Dataset:
    """The dataset that weights are measured on.

    Args:
        info: what `model.json` says of the weights.
        options: may have `dataset` and `data.KEYS`; else the dataset, the size, the resizing and the
            channels of the training.
    """
    name, shape = options.get("dataset", info["dataset"]), info["image_shape"]
    own = {"image_size": shape[0], "channels": shape[2]}
    own |= {key: info[key] for key in ("resize", "interpolation") if key in info}
    own = {key: value for key, value in own.items() if key in data.options(name)}
    return data.load(name, **{**own, **{key: options[key] for key in data.KEYS if key in options}})


def check_fits(weights: pretrained.Pretrained, dataset: data.Dataset, role: str, advice: str = "") -> None:
    """Raises `UserError` unless weights and data agree in the number of classes and of channels."""
    facts = (
        ("classes", weights.info["num_classes"], dataset.num_classes),
        ("channels", weights.info["image_shape"][-1], dataset.image_shape[-1]),
    )
    for what, theirs, ours in facts:
        grey = what == "channels" and theirs == 1 and dataset.name == "ImageFolder"
        if theirs != ours:
            raise UserError(
                f"The {role} in {weights.folder} has {theirs} {what} ({weights.info['dataset']}), "
                f"{dataset.name} has {ours}.{' Read grey images with --channels 1.' * grey}{advice}"
            )
