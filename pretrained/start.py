"""What a network that learns starts from: trained weights, parts that stay, a rate of its own for the classifier."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import optax
from flax import traverse_util

import data
import pretrained
from models import Player, quantization
from models.parts import CLASSIFIER, members, parts
from models.players import scaled_updates
from pretrained.classes import in_order, mismatch, only_numbered
from pretrained.torch_format import shapes
from registry import UserError

SHOWN = 4  # names in a line


class Start:
    """What the networks of a run that learn start from, in the order in which the strategy casts them.

    Args:
        params: folders of weights, the student's first.
        freeze: names of parts that stay.
        head_rate: the classifier's learning rate, as a factor of the run's.
        dataset: what the networks will learn.

    Attributes:
        lines: what was taken, left, drawn anew, frozen and quantised, for the user.
        digests: SHA-256 of the weights, in the order of `params`.
    """

    def __init__(self, params: Sequence[str], freeze: Sequence[str], head_rate: float, dataset: data.Dataset):
        self._waiting, self._freeze, self._head_rate, self._dataset = list(params), freeze, head_rate, dataset
        self.lines: list[str] = []
        self.digests: list[str] = []
        self._constants = False

    def begin(self, player: Player) -> Player:
        """The player that starts from the next weights; the player itself where none are left.

        Raises:
            UserError: weights that do not fit, or a network that cannot be quantised (`models.quantization.check`).
        """
        shape = player.view.shape(self._dataset.image_shape)
        self.lines += quantization.report(player, self._dataset.image_shape)
        if still := constants(player.model, shape):
            player, self._constants = dataclasses.replace(player, still=player.still | still), True
            self.lines.append(f"Constant in the {player.name}: its batch norms ({len(still)} arrays).")
        if not self._waiting:
            return player
        weights = pretrained.load(self._waiting.pop(0))
        self.digests.append(weights.sha256)
        player, lines = begin(player, weights, self._dataset)
        self.lines += lines
        return self._held(player)

    def with_head(self, player: Player, teachers: Sequence[tuple]) -> Player:
        """The player whose classifier starts as the teacher's. Its parts are held as those of `begin`.

        Args:
            player: the network that learns.
            teachers: (weights, player, variables) of each.

        Raises:
            UserError: more than one teacher, a teacher of other classes, or classifiers of other shapes.
        """
        if len(teachers) != 1:
            raise UserError(f"--init_head teacher needs one teacher; there are {len(teachers)}. Leave it out.")
        weights, teacher, variables = teachers[0]
        if problem := mismatch(weights, self._dataset, "teacher"):
            raise UserError(f"--init_head teacher needs a teacher of the data's classes.\n{problem.splitlines()[0]}")
        player, line = head_of(player, teacher, variables, player.view.shape(self._dataset.image_shape))
        self.lines.append(line)
        return player if self.digests else self._held(player)  # after `begin` its parts are held already

    @property
    def holds(self) -> bool:
        """Whether the optimizer has to know the parts (`held`)."""
        return bool(self._waiting or self.digests or self._freeze or self._constants) or self._head_rate != 1

    def _held(self, player: Player) -> Player:
        player, lines = hold(player, self._freeze, self._head_rate, player.view.shape(self._dataset.image_shape))
        self.lines += lines
        return player

    def held(self, optimizer: optax.GradientTransformation, strategy, state) -> optax.GradientTransformation:
        """The optimizer that leaves frozen parts alone and gives the classifiers their own rate.

        Args:
            optimizer: of all that learns.
            strategy: a `transfer.Strategy`, with its players.
            state: the strategy's state as shapes.

        Raises:
            UserError: more weights than networks that learn.
        """
        players: dict[str, Player] = {}
        jax.eval_shape(lambda s: players.update({name: own for name, (own, _) in strategy.learners(s).items()}), state)
        players = {name: player for name, player in players.items() if name in state.params}
        if self._waiting:
            count = len(self.digests)
            raise UserError(
                f"--init_param names {count + len(self._waiting)} weights, and {count} of the networks that learn can "
                "start from one. Name fewer."
            )
        return optax.chain(optimizer, optax.stateless(lambda updates, _: scaled_updates(players, updates)))


def constants(model, image_shape: Sequence[int]) -> frozenset[tuple[str, ...]]:
    """The paths of a network's batch norms, if it has a field `frozen_norm` that is set: what weight decay leaves."""
    if not getattr(model, "frozen_norm", False):
        return frozenset()
    paths = shapes(model, tuple(image_shape))
    norms = {path[1:-1] for path in paths if path[0] == "batch_stats"}
    return frozenset(path for path in paths if path[1:-1] in norms)


def begin(player: Player, weights: pretrained.Pretrained, dataset: data.Dataset) -> tuple[Player, list[str]]:
    """The player that starts from weights.

    A variable is taken from the weights if it has the same name and shape there; a network with a method
    `refit(path, array, shape)` may bring arrays of other shapes into its own. A detector may start from the weights of
    its backbone: they lie in the detector's variables under `backbone_name`. The classifier is drawn anew where the
    weights are of other classes than the dataset; classes in another order are permuted. The player normalises images
    as the weights' network does.

    Args:
        player: the network that learns.
        weights: what `pretrained.load` returned.
        dataset: what the network will learn.

    Returns:
        (the player, what was taken, left and drawn anew: a line each).

    Raises:
        UserError: images of another number of channels, or nothing but the classifier fits.
    """
    name, info, shape = player.name, weights.info, player.view.shape(dataset.image_shape)
    if info["image_shape"][-1] != shape[-1]:
        raise UserError(
            f"--init_param: the weights in {weights.folder} are of images with {info['image_shape'][-1]} channels, "
            f"{dataset.name} has {shape[-1]}.{' Give --channels 1.' * (dataset.name == 'ImageFolder')}"
        )
    want, have = shapes(player.model, shape), traverse_util.flatten_dict(weights.variables)
    last = _of_classes(player.model, have, shape, info["num_classes"])
    offered = _offered(weights, dataset.class_names, last)
    backbone = getattr(player.model, "backbone_name", None)
    inside = () if backbone is None or any(path[1] == backbone for path in have) else (backbone,)
    homes = {(path[0], *inside, *path[1:]): path for path in offered}
    refit, taken = getattr(player.model, "refit", lambda path, array, shape: array), {}
    for path in want.keys() & homes.keys():
        array = offered[homes[path]]
        array = array if array.shape == want[path] else refit(path, array, want[path])
        if array.shape == want[path]:
            taken[path] = array
    left = sorted(have.keys() - {homes[path] for path in taken})
    drawn = sorted(want.keys() - taken.keys())
    if not taken.keys() - last:
        fix = f"Give the {name} the architecture of the weights, {info['arch']}."
        if (theirs := pretrained.task_of(info)) != dataset.task:
            fix = f"The weights are for {theirs}, and {dataset.name} is data for {dataset.task}: take other weights."
        raise UserError(
            f"--init_param: nothing in {weights.folder} ({info['arch']}) fits the {name} but the classifier: there "
            f"{_names(left)}, here {_names(drawn)}.\n{fix}"
        )
    numbers = sum(array.size for array in taken.values())
    lines = [
        f"The {name} starts from {weights.folder}: {len(taken)} of {len(want)} arrays ({numbers:,} numbers) taken."
    ]
    if left:
        why = " (its classes are others)" * (len(offered) < len(have))
        lines.append(f"Left in {weights.folder}: {_names([f'{_text(p)} {have[p].shape}' for p in left])}{why}.")
    if drawn:
        lines.append(f"Drawn anew in the {name}: {_names([f'{_text(path)} {want[path]}' for path in drawn])}.")
    if tuple(info["image_shape"][:2]) != tuple(shape[:2]):
        lines.append(
            f"{weights.folder} was trained on images of {_side(info['image_shape'])} pixels; here {_side(shape)}."
        )
    mean, std = tuple(info["mean"]), tuple(info["std"])
    return dataclasses.replace(player, start=taken, mean=mean, std=std), lines


def head_of(player: Player, teacher: Player, variables: dict, image_shape: Sequence[int]) -> tuple[Player, str]:
    """The player whose classifier starts as the teacher's (`--init_head teacher`).

    Args:
        player: the network that learns.
        teacher, variables: a trained network.
        image_shape: [H, W, C] of the dataset's images.

    Returns:
        (the player, a line that says so).

    Raises:
        UserError: the classifiers have not the same names and shapes.
    """
    flat, shape = traverse_util.flatten_dict(variables), tuple(image_shape)
    theirs = {path: flat[path] for path in members(teacher.model, shape, (CLASSIFIER,)) if path in flat}
    want = shapes(player.model, shape)
    ours = {path: want[path] for path in members(player.model, shape, (CLASSIFIER,))}
    if ours != {path: array.shape for path, array in theirs.items()}:
        raise UserError(
            f"--init_head teacher: the classifiers differ: the teacher's has {_shaped(theirs)}, the {player.name}'s "
            f"{_shaped({path: np.empty(shape) for path, shape in ours.items()})}.\n"
            "Leave --init_head out, or choose networks whose embeddings are of one size (--student_arch Projected has "
            "an option width)."
        )
    line = f"The {player.name}'s classifier starts as the teacher's: {_names([_text(path) for path in sorted(ours)])}."
    return dataclasses.replace(player, start={**player.start, **theirs}), line


def hold(
    player: Player, freeze: Sequence[str], head_rate: float, image_shape: Sequence[int]
) -> tuple[Player, list[str]]:
    """The player of which parts stay as they start, and whose classifier may have a learning rate of its own.

    Args:
        player: the network that learns.
        freeze: names of parts (`models.parts`); their parameters and batch statistics stay.
        head_rate: the classifier's learning rate, as a factor of the run's.
        image_shape: [H, W, C] of the dataset's images.

    Returns:
        (the player, a line where something stays).

    Raises:
        UserError: a part that the network does not have, or nothing is left that learns.
    """
    shape = tuple(image_shape)
    frozen = members(player.model, shape, tuple(freeze))
    still = frozen | player.still
    head = members(player.model, shape, (CLASSIFIER,))
    learns = [path for path in parts(player.model, shape) if path[0] == "params" and path not in still]
    if not learns:
        raise UserError(f"--freeze {','.join(freeze)} leaves nothing of the {player.name} to learn. Name fewer parts.")
    if head_rate != 1 and not any(path[0] == "params" and path not in head for path in parts(player.model, shape)):
        raise UserError(
            f"--head_learning_rate: {type(player.model).__name__} has no taps that set its classifier apart.\n"
            "Leave the option out, or let the network return `Outputs` with features (docs/models.md)."
        )
    rates = dict.fromkeys(head, head_rate) if head_rate != 1 else {}
    lines = [f"Frozen in the {player.name}: {', '.join(freeze)} ({len(frozen)} arrays)."] if frozen else []
    return dataclasses.replace(player, still=still, rates=rates), lines


def _of_classes(model, have: dict, shape: tuple[int, ...], num_classes: int) -> set[tuple[str, ...]]:
    """The paths in `have` of the arrays with an output for each class."""
    if hasattr(model, "class_layers"):
        return {path for path in have if path[1:-1] in model.class_layers}
    head = members(model, shape, (CLASSIFIER,))
    return {path for path in head & have.keys() if have[path].shape[-1:] == (num_classes,)}


def _offered(weights: pretrained.Pretrained, ours: Sequence[str], last: set) -> dict:
    """The arrays of the weights with their classes in the dataset's order; without `last` where the classes differ."""
    theirs, ours, variables = list(weights.info["class_names"]), list(ours), weights.variables
    numbered = only_numbered(theirs)
    known = len(theirs) == len(ours) if numbered else set(theirs) == set(ours)
    if known and not numbered and theirs != ours:
        variables = in_order(variables, [theirs.index(name) for name in ours], weights)
    flat = traverse_util.flatten_dict(variables)
    return flat if known else {path: array for path, array in flat.items() if path not in last}


def _text(path: tuple[str, ...]) -> str:
    return "/".join(path[1:])


def _names(names: list) -> str:
    names = [name if isinstance(name, str) else _text(name) for name in names]
    return ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)


def _shaped(arrays: dict) -> str:
    return ", ".join(f"{_text(path)} {tuple(array.shape)}" for path, array in sorted(arrays.items())) or "none"


def _side(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"
