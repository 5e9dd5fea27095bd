"""Branches: several copies of a network's last stage and classifier on one trunk, for any network that has stages.

A branch is the whole network with the trunk's variables in the places of its own. The trunk is what the last stage but
one, `stage{N-1}`, depends on, found in a trace of the network. Every branch computes the trunk, from the same numbers,
and XLA merges the copies. So that the backward pass is made once, too, a branch's copy stands behind `stop_gradient`,
and what is differentiated is h - stop_gradient(h), zero, added to its tap, where h is the trunk of the student:

    branch_i(x) = network(trunk constant, own_i)(x with h - stop_gradient(h) added at stage{N-1})

Where something else of the trunk reaches the logits than that tap, or the network takes no shifts, each copy is
differentiated by itself: the same gradients, at the cost of a whole backward pass a branch.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from models import Outputs, forward, stages, traces
from registry import UserError
from transfer.base import Player
from transfer.peers import peer_key


@dataclasses.dataclass(frozen=True)
class Trunk:
    """What branches share.

    Attributes:
        tap: the feature at its end.
        paths: of its variables, ("params", ...) and ("batch_stats", ...).
        cut: nothing of it reaches the logits but through the tap.
    """

    tap: str
    paths: frozenset
    cut: bool


@functools.lru_cache(maxsize=64)
def trunk_of(model: nn.Module, image_shape: tuple[int, ...]) -> Trunk:
    """Traces `model` on images [B, H, W, C]; computes nothing.

    Raises:
        UserError: a network with fewer than two stages.
    """
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})
    seen = jax.eval_shape(lambda v, x: forward(model, v, x)[0].features, variables, image)
    count = len(stages(seen))
    if count < 2:
        raise UserError(
            f"{type(model).__name__} has {count} stages; branches need two at least, `stage1`, `stage2`, ... among its "
            "features. Choose another --student_arch."
        )
    tap = f"stage{count - 1}"

    def run(leaves, pixels):
        outputs, _ = forward(model, traverse_util.unflatten_dict(dict(zip(flat, leaves, strict=True))), pixels)
        return outputs.features[tap], outputs.logits

    trace = jax.make_jaxpr(run)(list(flat.values()), image).jaxpr
    end, logits = trace.outvars
    names = dict(zip(trace.invars, flat, strict=False))  # the last is the image
    paths = frozenset(names[v] for v in traces.reached(trace, [end]) if v in names)
    rest = {names[v] for v in traces.reached(trace, [logits], barrier=end) if v in names}
    takes_shifts = "deltas" in inspect.signature(type(model).__call__).parameters
    return Trunk(tap, paths, takes_shifts and not rest & paths)


@dataclasses.dataclass(frozen=True)
class Branches:
    """`count` networks of one architecture with the trunk in common; the first is the student.

    Parameters are `{"student": all of a network's, "branch1": what is its own, ...}`, and so are the other variables.

    Attributes:
        player: the student.
        count: networks, two at least.
        shared: they have a trunk in common; False: they are whole networks.
    """

    player: Player
    count: int
    shared: bool = True

    def __post_init__(self):
        if self.count < 2:
            raise UserError(f"'branches' must be 2 at least; got {self.count}.")

    @property
    def names(self) -> list[str]:
        """ "student", "branch1", ..."""
        return ["student", *(f"branch{i}" for i in range(1, self.count))]

    def init(self, key: jax.Array, image: jax.Array) -> tuple[dict, dict]:
        """First (parameters, other variables), each branch's from its own key."""
        params, extra = {}, {}
        for number, name in enumerate(self.names):
            variables = self.player.init(peer_key(key, number), image)
            own = self._own(variables, image.shape) if number else variables
            params[name], extra[name] = own["params"], {"batch_stats": own["batch_stats"]}
        return params, extra

    def variables(self, params: dict, extra: dict, name: str) -> dict:
        """A whole network's variables, as the plain network takes them."""
        own = {"params": params[name], **extra[name]}
        return own if name == "student" else _joined({"params": params["student"], **extra["student"]}, own)

    def look(self, params: dict, extra: dict, images: tuple[jax.Array, ...]) -> tuple[dict, dict, jax.Array]:
        """All branches in train mode.

        Args:
            params, extra: as `init` gives them.
            images: [B, H, W, C] in [0, 1]: one for all branches, or one for each. The trunk's batch norms take the
                statistics of each image in turn.

        Returns:
            (name -> Outputs, the new `extra`, the trunk's feature at the student).
        """
        trunk = trunk_of(self.player.model, images[0].shape)
        outputs, after, extra = {}, {}, dict(extra)
        for number, name in enumerate(self.names):
            variables, shifts = self.variables(params, extra, name), None
            if number and len(images) == 1 and self.shared and trunk.cut:
                h = outputs["student"].features[trunk.tap]
                variables, shifts = _behind(variables, trunk.paths), {trunk.tap: h - jax.lax.stop_gradient(h)}
            image = images[number % len(images)]
            outputs[name], stats = self.player.forward(variables, image, train=True, shifts=shifts)
            stats = {"params": {}, "batch_stats": stats}
            if not number:
                after[name] = {"batch_stats": stats["batch_stats"]}
                extra["student"] = after[name]
                continue
            after[name] = {"batch_stats": self._own(stats, images[0].shape)["batch_stats"]}
            if len(images) > 1 and self.shared:  # the trunk has seen one image more
                whole = {"params": {}, **after["student"]}
                moved = _only(stats, trunk.paths)
                after["student"] = {"batch_stats": _joined(whole, moved)["batch_stats"]}
                extra["student"] = after["student"]
        return outputs, after, outputs["student"].features[trunk.tap]

    def learners(self, params: dict, extra: dict) -> dict[str, tuple[Player, dict]]:
        """Name -> (player, a plain network's variables)."""
        return {name: (self.player, self.variables(params, extra, name)) for name in self.names}

    def _own(self, variables, image_shape):
        """What is not the trunk's."""
        if not self.shared:
            return variables
        paths = trunk_of(self.player.model, tuple(image_shape)).paths
        return _unflat({path: leaf for path, leaf in _flat(variables).items() if path not in paths})


@dataclasses.dataclass(frozen=True)
class Assembly(Player):
    """A player of several networks and what joins them: tested like a network, not kept as one.

    Attributes:
        call: (variables, image [B, H, W, C] in [0, 1]) -> logits [B, K], in evaluation mode.
    """

    call: Callable = None

    def forward(self, variables, image, **_):
        return Outputs(logits=self.call(variables, image), features={}), {}


def assembled(player: Player, call: Callable) -> Assembly:
    """`call` in the place of `player`."""
    return Assembly("ensemble", player.model, player.mean, player.std, call)


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


def _behind(variables: dict, paths) -> dict:
    """With the variables at `paths` behind `stop_gradient`."""
    flat = _flat(variables)
    return _unflat({path: jax.lax.stop_gradient(x) if path in paths else x for path, x in flat.items()})
