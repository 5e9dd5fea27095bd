"""The parts of a network: which variables belong to `stem`, `stage1`, ..., and which to the classifier.

A trace of the network finds the parts, so the names of modules do not matter. A variable belongs to the first part, in
the order of the forward pass, whose tap depends on the variable. `classifier` is the part behind the last tap.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from models import traces
from models.outputs import forward
from registry import unknown

CLASSIFIER = "classifier"
INSIDE = re.compile(r".*_preact|(attention|qkv|block)\d+|.*_logits")  # taps in the middle of a part


@functools.lru_cache(maxsize=64)
def parts(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[tuple[str, ...], str]:
    """Finds the part of each variable; computes nothing.

    Args:
        model: any network; one without features is one part, `classifier`.
        image_shape: [H, W, C].

    Returns:
        Path ("params" or "batch_stats", module, ..., name) -> name of the part, in the order of the forward pass.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})
    taps: list[str] = []

    def run(leaves, pixels):
        outputs, _ = forward(model, traverse_util.unflatten_dict(dict(zip(flat, leaves, strict=True))), pixels)
        taps.extend(tap for tap in outputs.features if not INSIDE.fullmatch(tap))
        return [*(outputs.features[tap] for tap in taps), outputs.logits]

    trace = jax.make_jaxpr(run)(list(flat.values()), image).jaxpr
    names = dict(zip(trace.invars, flat, strict=False))  # the last is the image
    found: dict[tuple[str, ...], str] = {}
    for part, end in zip([*taps, CLASSIFIER], trace.outvars, strict=True):
        reached = traces.reached(trace, [end])
        for path in (path for variable, path in names.items() if variable in reached):
            found.setdefault(path, part)
    return {**found, **{path: CLASSIFIER for path in flat if path not in found}}


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
