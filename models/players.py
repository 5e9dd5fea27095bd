"""A network in a role, with the input statistics that belong to its weights, and what the network starts from."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Collection, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models.layers import BatchNorm
from models.outputs import Outputs, forward
from models.view import View
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Player:
    """A network in a role, with the input statistics of its training.

    Attributes:
        name: "student", "teacher", ...
        model: a linen Module.
        mean, std: per channel, of pixels in [0, 1].
        start: path ("params" or "batch_stats", module, ..., name) -> the array that the variable starts from.
        still: paths of the variables that training does not change. A batch norm whose parameters are among them
            normalises by its running statistics in training, too.
        rates: path -> factor on the optimizer's updates of the parameter; 1 where none is given.
        image_size, resize, interpolation: the size at which the network sees the images (`View`); 0: their own.
    """

    name: str
    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    start: Mapping[tuple[str, ...], np.ndarray] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    still: frozenset[tuple[str, ...]] = dataclasses.field(default=frozenset(), repr=False)
    rates: Mapping[tuple[str, ...], float] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    _: dataclasses.KW_ONLY
    image_size: int = 0
    resize: int = 0
    interpolation: str = "bilinear"

    @functools.cached_property
    def view(self) -> View:
        """How the network sees the images."""
        return View(self.image_size, self.resize, self.interpolation)

    def init(self, key: jax.Array, image: jax.Array) -> dict:
        """The first variables `{"params", "batch_stats"}` for images like `image` [B, H, W, C].

        What `start` has is taken from there; the other variables are drawn.
        """
        variables = self.model.init(key, self.view(image[:1]))
        variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return (
            _with(variables, lambda path, drawn: jnp.asarray(self.start.get(path, drawn))) if self.start else variables
        )

    def forward(self, variables: dict, image: jax.Array, train: bool = False, **options) -> tuple[Outputs, dict]:
        """`models.forward` on `image` [B, H, W, C] in [0, 1], resized and normalised as this player wants it."""
        image = self.view(image)
        mean, std = jnp.asarray(self.mean, image.dtype), jnp.asarray(self.std, image.dtype)
        image = (image - mean) / std
        if not (train and self.still):
            return forward(self.model, variables, image, train=train, **options)
        with nn.intercept_methods(_holding(self.still)):
            return forward(self.model, stopped(variables, self.still), image, train=True, **options)

    def factor(self, path: tuple[str, ...]) -> float:
        """The factor on the optimizer's updates of the parameter at `path`; 0: the parameter stays."""
        return 0.0 if path in self.still else self.rates.get(path, 1.0)

    def rngs(self, batch, view: int = 0) -> dict | None:
        """What this network draws from in training, on one view of a batch: for `forward(train=True, rngs=...)`.

        The key follows from the update, the player's name and the view. A network that draws nothing does not read the
        key, and its compiled program does not compute the key.

        Returns:
            A dictionary with the key "dropout"; None where the batch has no key.
        """
        if batch.key is None:
            return None
        own = jax.random.fold_in(batch.key, zlib.crc32(self.name.encode()))
        return {"dropout": jax.random.fold_in(own, view)}

    def look(self, variables: dict, batch, views: int = 1, train: bool = False, **options) -> tuple[Outputs, dict]:
        """`forward` on the first `views` views of a batch, one pass each, in training with random numbers of its own.

        Returns:
            (`Outputs` of the first view, with those of the others in `views`; the batch statistics after all passes).
        """
        outputs = []
        for number, image in enumerate((batch.image, *batch.views)[:views]):
            rngs = self.rngs(batch, number) if train else None
            answer, stats = self.forward(variables, image, train=train, rngs=rngs, **options)
            variables = {**variables, "batch_stats": stats}
            outputs.append(answer)
        return outputs[0].replace(views=tuple(outputs[1:])), stats


def scaled_updates(players: Mapping[str, Player], updates: dict) -> dict:
    """The optimizer's updates times the factor of each parameter (`Player.factor`).

    Args:
        players: name -> the player whose parameters `updates[name]` are for; updates of other names stay.
        updates: name -> nested dicts of arrays.
    """

    def scaled(name):
        flat = traverse_util.flatten_dict(updates[name])
        factors = {path: players[name].factor(("params", *path)) for path in flat}
        return traverse_util.unflatten_dict({p: x if factors[p] == 1 else factors[p] * x for p, x in flat.items()})

    return {name: scaled(name) if name in players else own for name, own in updates.items()}


def stopped(variables: dict, paths: Collection[tuple[str, ...]]) -> dict:
    """The variables with those at `paths` behind `stop_gradient`."""
    return _with(variables, lambda path, x: jax.lax.stop_gradient(x) if path in paths else x)


def _with(variables: dict, change: Callable) -> dict:
    """The variables with `change(path, array)` in the place of each array."""
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    empty = traverse_util.empty_node
    changed = {path: x if x is empty else change(path, x) for path, x in flat.items()}
    return traverse_util.unflatten_dict(changed)


def _holding(still: frozenset[tuple[str, ...]]) -> Callable:
    """An interceptor of Flax methods: a batch norm whose scale or bias is in `still` uses its running statistics."""

    def hold(call, args, kwargs, context):
        module = context.module
        ours, flaxs = isinstance(module, BatchNorm), isinstance(module, nn.BatchNorm)
        own = {("params", *module.path, name) for name in ("scale", "bias")}
        if context.method_name != "__call__" or not (ours or flaxs) or own.isdisjoint(still):
            return call(*args, **kwargs)
        if ours:
            return call(args[0], **{**kwargs, "train": False})
        if module.use_running_average is not None:
            raise UserError(
                f"The batch norm {'/'.join(module.path)} cannot be frozen: the network sets its field "
                "use_running_average.\nLet the network give use_running_average in the call, or do not --freeze it."
            )
        return call(args[0], **{**kwargs, "use_running_average": True})

    return hold
