"""Makes a player (a network in a role) from weights, and checks that weights fit a dataset."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import data
import models
import pretrained
from models import Player
from models.folding import fold
from pretrained import orders
from registry import UserError


def player_of(
    weights: pretrained.Pretrained,
    name: str,
    dtype=jnp.float32,
    arch: str = "",
    frozen: bool = False,
    class_names: Sequence[str] = (),
) -> tuple[Player, dict]:
    """Builds the network of some weights, with the input statistics of the weights.

    Args:
        weights: what `pretrained.load` returned.
        name: the player's role.
        dtype: compute type.
        arch: the network's name as the user gives it. Needed if the network is code outside the library
            ("module:attribute"), because a file of weights must not choose what Python imports.
        frozen: the network is used in evaluation mode only: its batch norms are folded into the layers before them.
        class_names: the dataset's. If the weights have the same classes in another order, the outputs are put in this
            order (`class_order`). Empty: the order of the weights stays.

    Returns:
        (the player, its variables).

    Raises:
        UserError: the architecture is unknown, the weights do not fit it, or the outputs cannot be put in order.
    """
    info = weights.info
    if ":" in info["arch"] and arch != info["arch"]:
        raise UserError(
            f"The weights in {weights.folder} are of '{info['arch']}', code outside this library.\n"
            f"If you trust it, say so: {'--teacher_arch' if name == 'teacher' else '--arch'} {info['arch']}"
        )
    model = models.create(info["arch"], info["num_classes"], dtype=dtype, **info.get("options", {}))
    variables = pretrained.check(weights, model)
    if order := class_order(info["class_names"], class_names):
        variables = in_order(variables, order, weights)
    variables = fold(model, variables, info["image_shape"]) if frozen else variables
    return Player(name, model, tuple(info["mean"]), tuple(info["std"])), variables


def class_order(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """The position in `theirs` of each name of `ours`, if both have the same names in different orders; else empty.

    The result is also empty if `theirs` is "0", "1", ...: a conversion that knew no names wrote these.
    """
    theirs, ours = list(theirs), list(ours)
    if theirs == ours or set(theirs) != set(ours) or only_numbered(theirs):
        return []
    return [theirs.index(name) for name in ours]


def class_note(
    role: str, info: dict, dataset: data.Dataset, logits: np.ndarray | None = None, labels: np.ndarray | None = None
) -> str:
    """A line for the user if weights and data may have the classes in different orders; else empty.

    Args:
        role: "teacher" or "network", for the text.
        info: what `model.json` says of the weights.
        dataset: the data.
        logits: [N, K], of the network that `player_of` returned; None: only the names are compared.
        labels: [N] int, of the same images.
    """
    theirs, ours = info["class_names"], dataset.class_names
    if class_order(theirs, ours):
        return f"the {role} has the classes of {dataset.name} in another order. They are matched by name."
    note, other = "", set(theirs) != set(ours) and not only_numbered(theirs)
    if other:
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
        shown = ", ".join(f"class {i} is '{a}' there and '{b}' in the data" for i, a, b in pairs[:2])
        note = f"{len(pairs)} of the {role}'s {len(ours)} class names are not those of {dataset.name}: {shown}"
        note += f"{', ...' * (len(pairs) > 2)}. The classes are matched by their numbers."
    found = None
    if logits is not None and (other or only_numbered(theirs)):
        found = orders.better(logits.argmax(axis=1), labels, list(ours))
    if found:
        how, order, accuracy = found
        listed = ", ".join(order[:6]) + ", ..." * (len(order) > 6)
        note += f"{' ' * bool(note)}{'T' if note else 't'}he {role} would be right on {accuracy:.2f} % of the images "
        note += (
            f"with its classes in the order {listed} ({how}). Put that order into the `class_names` of its model.json."
        )
    return note


def only_numbered(names: Sequence[str]) -> bool:
    """Whether the names are "0", "1", ...: whoever wrote them knew no names."""
    return list(names) == [str(number) for number in range(len(names))]


def in_order(variables: dict, order: list[int], weights: pretrained.Pretrained) -> dict:
    """The variables with the classifier's outputs in another order. Every reader of the network gets this order."""
    last = [name for name in variables["params"] if name.startswith("classifier")]
    if not last:
        raise UserError(
            f"The weights in {weights.folder} have the data's classes in another order, and {weights.info['arch']} has "
            "no layer named `classifier` whose outputs could be put in order.\n"
            "Name the network's last layer `classifier`, or rename the images' folders so that they sort in its order."
        )
    ordered = {
        name: {key: np.asarray(value)[..., order] for key, value in variables["params"][name].items()} for name in last
    }
    return {**variables, "params": {**variables["params"], **ordered}}


def dataset_of(info: dict, options: dict) -> data.Dataset:
    """The dataset that weights are measured on.

    Args:
        info: what `model.json` says of the weights.
        options: may have `dataset` and any of `data.KEYS`. The others are those of the training (`info`).
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
