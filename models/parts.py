"""The parts of a network: which variables belong to `stem`, `stage1`, ..., and which to the classifier.

A trace of the network finds the parts, so the names of modules do not matter. A variable belongs to the first part, in
the order of the forward pass, whose tap depends on the variable. `classifier` is the part behind the last tap.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.extend import core

from models import traces
from models.outputs import forward
from registry import unknown

CLASSIFIER = "classifier"
INSIDE = re.compile(r".*_preact|(attention|qkv|block)\d+|.*_logits")  # taps in the middle of a part


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network's forward pass in evaluation mode as a jaxpr.

    Attributes:
        jaxpr: of the pass.
        paths: input of the jaxpr -> path of the variable, ("params" or "batch_stats", module, ..., name).
        taps: name of a tap -> output of the jaxpr, in the order of the forward pass.
        logits: output of the jaxpr.
    """

    jaxpr: core.Jaxpr
    paths: dict[core.Var, tuple[str, ...]]
    taps: dict[str, core.Var]
    logits: core.Var

    def reached(self, end: core.Var, barrier: core.Var | None = None) -> list[tuple[str, ...]]:
        """The paths of the variables that `end` depends on, by ways that do not go through `barrier`."""
        found = traces.reached(self.jaxpr, [end], barrier)
        return [path for variable, path in self.paths.items() if variable in found]


def traced(model: nn.Module, image_shape: tuple[int, int, int]) -> Traced:
    """Traces a network on one image of the shape [H, W, C]; computes nothing."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})
    taps: list[str] = []

    def run(leaves, pixels):
        outputs, _ = forward(model, traverse_util.unflatten_dict(dict(zip(flat, leaves, strict=True))), pixels)
        taps.extend(outputs.features)
        return [*outputs.features.values(), outputs.logits]

    jaxpr = jax.make_jaxpr(run)(list(flat.values()), image).jaxpr
    *ends, logits = jaxpr.outvars
    paths = dict(zip(jaxpr.invars, flat, strict=False))  # the last input is the image
    return Traced(jaxpr, paths, dict(zip(taps, ends, strict=True)), logits)


@functools.lru_cache(maxsize=64)
def parts(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[tuple[str, ...], str]:
    """Finds the part of each variable; computes nothing.

    Args:
        model: any network; one without features is one part, `classifier`.
        image_shape: [H, W, C].

    Returns:
        Path ("params" or "batch_stats", module, ..., name) -> name of the part, in the order of the forward pass.
    """
    trace, found = traced(model, image_shape), {}
    for tap, end in trace.taps.items():
        for path in trace.reached(end) if not INSIDE.fullmatch(tap) else ():
            found.setdefault(path, tap)
    return {**found, **{path: CLASSIFIER for path in trace.paths.values() if path not in found}}


def members(model: nn.Module, image_shape: tuple[int, int, int], wanted: tuple[str, ...]) -> frozenset:
    """The paths of all variables of the parts `wanted`.

    Raises:
        UserError: a part that the network does not have; the message lists the parts.
    """
    found = parts(model, image_shape)
    for part in wanted:
        if part not in found.values():
            raise unknown("part of the network", part, dict.fromkeys(found.values()))
    return frozenset(path for path, part in found.items() if part in wanted)
