"""Makes a player (a network in a role) from weights, and checks that weights fit a dataset."""

from collections.abc import Callable

import jax.numpy as jnp

import data
import models
import pretrained
from models import Player
from models.casting import cast
from models.folding import fold
from pretrained import classes
from registry import UserError


def player_of(
    weights: pretrained.Pretrained,
    name: str,
    dtype=jnp.float32,
    arch: str = "",
    frozen: bool = False,
    dataset: data.Dataset | None = None,
    image_size: int = 0,
) -> tuple[Player, dict]:
    """Builds the network of some weights, with the input statistics of the weights.

    Args:
        weights: what `pretrained.load` or `fitted` returned.
        name: the player's role.
        dtype: compute type.
        arch: the network's name as the user gives it. Needed if the network is code outside the library
            ("module:attribute"), because a file of weights must not choose what Python imports.
        frozen: the network is used in evaluation mode only: its batch norms are folded into the layers before them, and
            weights that it casts are cast.
        dataset: the data, which may say at which size networks see the images.
        image_size: side in pixels at which this network sees the images; 0: as the data say.

    Returns:
        (the player, its variables).

    Raises:
        UserError: the architecture is unknown, or the weights do not fit it.
    """
    info = weights.info
    if ":" in info["arch"] and arch != info["arch"]:
        raise UserError(
            f"The weights in {weights.folder} are of '{info['arch']}', code outside this library.\n"
            f"If you trust it, say so: {'--teacher_arch' if name == 'teacher' else '--arch'} {info['arch']}"
        )
    model = models.create(info["arch"], info["num_classes"], dtype=dtype, **info.get("options", {}))
    if dataset:
        task = "detection" if hasattr(model, "detections") else "classification"
        _check_task(task, dataset, f"{name} in {weights.folder}")
    variables = pretrained.check(weights, model)
    if frozen:
        variables = fold(model, variables, info["image_shape"])
        variables = variables if dtype == jnp.float32 else cast(model, variables, info["image_shape"])
    view = dataset.view(image_size, info.get("interpolation", "")) if dataset else {}
    return Player(name, model, tuple(info["mean"]), tuple(info["std"]), **view), variables


def dataset_of(info: dict, options: dict) -> data.Dataset:
    """The dataset that weights are measured on.

    Data without labels get the classes of the weights.

    Args:
        info: what `model.json` says of the weights.
        options: may have `dataset` and any of `data.KEYS`. The others are those of the training (`info`). With another
            `image_size` the short side of the training changes by the same factor.
    """
    name, shape = options.get("dataset", info["dataset"]), info["image_shape"]
    own = {"image_size": shape[0], "channels": shape[2]}
    own |= {key: info[key] for key in ("resize", "interpolation") if key in info}
    if own.get("resize") and "image_size" in options:
        own["resize"] = round(own["resize"] * options["image_size"] / shape[0])
    own = {key: value for key, value in own.items() if key in data.options(name)}
    given = {key: options[key] for key in data.KEYS if key in options}
    try:
        dataset = data.load(name, **{**own, **given})
    except UserError:  # data with boxes refuse the size of a classifier's images
        _check_task(pretrained.task_of(info), data.load(name, **given), f"network {info['arch']}")
        raise
    _check_task(pretrained.task_of(info), dataset, f"network {info['arch']}")
    return dataset.named(info["class_names"])


def _check_task(task: str, dataset: data.Dataset, name: str) -> None:
    """Raises `UserError` if a network for `task` is to answer data for another task; `name` is for the message."""
    if task != dataset.task:
        raise UserError(
            f"{dataset.name} is data for {dataset.task}, and the weights of the {name} are for {task}.\n"
            "Take other weights, or other data."
        )


def fitted(
    weights: pretrained.Pretrained,
    dataset: data.Dataset,
    role: str,
    warn: Callable[[str], None],
    advice: str = "",
    image_size: int = 0,
    strangers: list[str] | None = None,
) -> pretrained.Pretrained:
    """Returns weights whose outputs are the classes of a dataset, in its order (`pretrained.classes`).

    Args:
        weights: what `pretrained.load` returned.
        dataset: the data.
        role: "teacher" or "network", for messages.
        warn: takes a line for the user, on what is not as when the weights were trained.
        advice: for the end of a message.
        image_size: side in pixels at which the network shall see the images; 0: nobody has said so.
        strangers: takes the message where weights have other classes, in the place of an error.

    Raises:
        UserError: another task, other channels or other classes.
    """
    _check_task(pretrained.task_of(weights.info), dataset, f"{role} in {weights.folder}")
    theirs, ours = weights.info["image_shape"], dataset.seen_shape
    if problem := classes.mismatch(weights, dataset, role, advice):
        if strangers is None:
            raise UserError(problem)
        strangers.append(problem)
    if theirs[-1] != ours[-1]:
        grey = theirs[-1] == 1 and "channels" in data.options(dataset.name)
        raise UserError(
            f"The {role} in {weights.folder} has {theirs[-1]} channels ({weights.info['dataset']}), "
            f"{dataset.name} has {ours[-1]}.{' Read grey images with --channels 1.' * grey}{advice}"
        )
    flag = "--teacher_image_size" if role == "teacher" else "--image_size"
    if tuple(theirs[:2]) != tuple(ours[:2]) and not image_size:
        warn(
            f"the {role} in {weights.folder} was trained on images of {theirs[0]}x{theirs[1]} pixels and sees "
            f"{ours[0]}x{ours[1]} here. {flag} {theirs[0]} resizes the images for the {role}."
        )
    pictures = dataset.interpolation and not dataset.image_size
    if pictures and image_size > min(ours[:2]):
        warn(
            f"the {role} sees the pictures of {ours[0]}x{ours[1]} pixels enlarged to {image_size}x{image_size}. "
            f"--image_size {image_size} reads them larger, for all networks."
        )
    weights, note = classes.matched(weights, dataset, role)
    if note:
        warn(note)
    return weights
