"""Branches: several copies of a network's last stage and classifier on one trunk, for any network with stages.

The trunk is everything on which the last stage but one, `stage{N-1}`, depends; a trace of the network finds the trunk.
A branch is the whole network, but with the common trunk's variables instead of its own.

Every branch computes the trunk from the same numbers, and XLA merges the equal forward passes. XLA does not merge the
backward passes, because each branch has its own gradient. So the trunk would cost one backward pass for each branch.
Therefore the trunk's variables are behind `stop_gradient` in a branch. Let h be the student's feature at the tap
`stage{N-1}`. The branch adds h - stop_gradient(h), which is zero, to its own feature at this tap. Then all gradients
arrive at h, and the trunk has one backward pass:

    branch_i(x) = network(constant trunk, own_i)(x, with h - stop_gradient(h) added at stage{N-1})

A value added at a tap is a shift. If the network takes no shifts, or if the logits also depend on the trunk past the
tap, each copy of the trunk is differentiated separately. The gradients are the same, but the trunk then costs one
backward pass per branch.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from models import Outputs, stages
from models.parts import traced
from models.players import stopped
from options import at_least, not_negative, positive
from registry import UserError
from transfer.base import Player, State, Strategy, player_key
from transfer.peers import ramp_up


@dataclasses.dataclass(frozen=True)
class Trunk:
    """The part of a network that branches share.

    Attributes:
        tap: the feature at the trunk's end.
        paths: paths of the trunk's variables, ("params", ...) and ("batch_stats", ...).
        cut: the logits depend on the trunk through the tap alone, and the network takes shifts.
    """

    tap: str
    paths: frozenset
    cut: bool


@functools.lru_cache(maxsize=64)
def trunk_of(model: nn.Module, image_shape: tuple[int, ...]) -> Trunk:
    """Finds the trunk in a trace of `model` on images of the shape [B, H, W, C]; computes nothing.

    Raises:
        UserError: the network has fewer than two stages.
    """
    trace = traced(model, tuple(image_shape[1:]))
    count = len(stages(trace.taps))
    if count < 2:
        raise UserError(
            f"{type(model).__name__} has {count} stages, but branches need two or more (features `stage1`, `stage2`, "
            "...). Choose another --student_arch."
        )
    tap = f"stage{count - 1}"
    end = trace.taps[tap]
    paths = frozenset(trace.reached(end))
    rest = paths.intersection(trace.reached(trace.logits, barrier=end))
    takes_shifts = "deltas" in inspect.signature(type(model).__call__).parameters
    return Trunk(tap, paths, takes_shifts and not rest)


@dataclasses.dataclass(frozen=True)
class Branches:
    """`count` networks of one architecture with a common trunk; the first is the student.

    Parameters are `{"student": a whole network's, "branch1": without the trunk's, ...}`. So are the other variables.

    Attributes:
        player: the student.
        count: number of networks, two or more.
        shared: the networks have a trunk in common; False: they are whole networks.
    """

    player: Player
    count: int
    shared: bool = True

    @property
    def names(self) -> list[str]:
        """ "student", "branch1", ..."""
        return ["student", *(f"branch{i}" for i in range(1, self.count))]

    def init(self, key: jax.Array, image: jax.Array) -> tuple[dict, dict]:
        """Returns the first (parameters, other variables). Each branch draws them from its own key."""
        params, extra = {}, {}
        for number, name in enumerate(self.names):
            variables = self.player.init(player_key(key, number), image)
            own = self._own(variables, image.shape) if number else variables
            params[name], extra[name] = own["params"], {"batch_stats": own["batch_stats"]}
        return params, extra

    def variables(self, params: dict, extra: dict, name: str) -> dict:
        """Returns the variables of the branch `name`, as variables of a whole network."""
        own = {"params": params[name], **extra[name]}
        return own if name == "student" else _joined({"params": params["student"], **extra["student"]}, own)

    def look(self, params: dict, extra: dict, images: tuple[jax.Array, ...], batch) -> tuple[dict, dict, jax.Array]:
        """Runs all branches in train mode.

        Branches that see the same images draw the same random numbers: the trunk, which each of them computes, drops
        the same.

        Args:
            params, extra: as `init` returns them.
            images: [B, H, W, C] in [0, 1]: one array for all branches, or one for each. The trunk's batch norms take
                the statistics of each array in turn.
            batch: has the key that the networks draw from.

        Returns:
            (name -> `Outputs`, the new `extra`, the student's feature at the trunk's end).
        """
        trunk = trunk_of(self.player.model, self.player.view.shape(images[0].shape))
        outputs, after, extra = {}, {}, dict(extra)
        for number, name in enumerate(self.names):
            variables, shifts = self.variables(params, extra, name), None
            if number and len(images) == 1 and self.shared and trunk.cut:
                h = outputs["student"].features[trunk.tap]
                variables, shifts = stopped(variables, trunk.paths), {trunk.tap: h - jax.lax.stop_gradient(h)}
            view = number % len(images)
            rngs = self.player.rngs(batch, view)
            outputs[name], stats = self.player.forward(variables, images[view], train=True, shifts=shifts, rngs=rngs)
            stats = {"params": {}, "batch_stats": stats}
            if not number:
                after[name] = {"batch_stats": stats["batch_stats"]}
                extra["student"] = after[name]
                continue
            after[name] = {"batch_stats": self._own(stats, images[0].shape)["batch_stats"]}
            if len(images) > 1 and self.shared:  # each array moves the trunk's statistics
                whole = {"params": {}, **after["student"]}
                moved = _only(stats, trunk.paths)
                after["student"] = {"batch_stats": _joined(whole, moved)["batch_stats"]}
                extra["student"] = after["student"]
        return outputs, after, outputs["student"].features[trunk.tap]

    def learners(self, params: dict, extra: dict) -> dict[str, tuple[Player, dict]]:
        """Returns name -> (player, variables of a whole network)."""
        return {name: (self.player, self.variables(params, extra, name)) for name in self.names}

    def _own(self, variables, image_shape):
        """Returns the variables without the trunk's."""
        if not self.shared:
            return variables
        paths = trunk_of(self.player.model, self.player.view.shape(image_shape)).paths
        return _unflat({path: leaf for path, leaf in _flat(variables).items() if path not in paths})


@dataclasses.dataclass(frozen=True)
class Assembly(Player):
    """Several networks and the function that joins their logits, as one player. It is tested and not kept.

    Attributes:
        call: (variables, image [B, H, W, C] in [0, 1]) -> logits [B, K], in evaluation mode.
    """

    call: Callable = None

    def forward(self, variables, image, **_):
        return Outputs(logits=self.call(variables, image), features={}), {}


@dataclasses.dataclass(frozen=True)
class Branched(Strategy):
    """Base of the strategies whose learners are branches of one network.

    Attributes:
        branches: number of networks, the student included.
        weight: weight of the distillation losses.
        temperature: T, dimensionless.
        ramp: share of the training in which the distillation losses grow to their weight; 0: full weight at once.
        train_epoch: epochs of the training; the engine sets it. 0: unknown; then there is no ramp.
    """

    branches: int = at_least(2, 3)
    weight: float = not_negative(1.0)
    temperature: float = positive(3.0)
    ramp: float = not_negative(80 / 300)
    train_epoch: int = 0

    @property
    def _branches(self) -> Branches:
        return Branches(self.student, self.branches)

    def learners(self, state):
        return self._branches.learners(state.params, state.extra)

    def _factor(self, epoch: jax.Array) -> jax.Array:
        """Returns the weight of the distillation losses at `epoch`."""
        return self.weight * ramp_up(epoch, self.ramp * self.train_epoch)

    def _ensemble(self, state: State, variables: dict, join: Callable) -> dict[str, tuple[Player, dict]]:
        """Returns the branches' ensemble as `tested` returns it.

        Args:
            state: has the branches' variables.
            variables: the variables that `join` takes.
            join: (variables, `Outputs` of each branch) -> logits [B, K].
        """
        branches, student = self._branches, self.student
        networks = {name: branches.variables(state.params, state.extra, name) for name in branches.names}

        def call(all_variables, image):
            outputs = [student.forward(all_variables[name], image)[0] for name in branches.names]
            return join(all_variables["ensemble"], outputs)

        player = Assembly("ensemble", student.model, student.mean, student.std, call=call)
        return {"ensemble": (player, {**networks, "ensemble": variables})}


def pooled(feature: jax.Array) -> jax.Array:
    """[B, ..., C] -> [B, C] float32: the mean over all positions."""
    return jnp.mean(feature.astype(jnp.float32), axis=tuple(range(1, feature.ndim - 1)))


def _flat(variables: dict) -> dict:
    return traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})


def _unflat(flat: dict) -> dict:
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(flat)


def _only(variables: dict, paths) -> dict:
    return _unflat({path: leaf for path, leaf in _flat(variables).items() if path in paths})


def _joined(whole: dict, own: dict) -> dict:
    return _unflat({**_flat(whole), **_flat(own)})
