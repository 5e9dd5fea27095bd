"""Fake quantisation: a network computes with numbers that integers can hold, and its arrays stay float32.

    weights, for each output channel:  w' = s clip(round(w / s), -m, m),   s = max|w| / m,   m = 127 (8 bits) or 7 (4)
    inputs of a layer:                 x' = s (clip(round(x / s) + z, 0, 255) - z),   s = (high - low) / 255,
                                       z = round(-low / s),   low <= 0 <= high

A runtime for integers multiplies exactly these weights and inputs. By default `low` and `high` are the range of one
image's input, as in dynamic quantisation. `deploy.quantize` measures fixed ranges on training images. The derivative is
that of w' = w and x' = x (straight-through).

Paper: Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference.
CVPR 2018. arXiv:1712.05877.

Batch norm stays float. Folding it into a convolution (`models.folding`) multiplies each output channel by a number, and
so multiplies s and no integer. So the folded network that a runtime gets has the integers of the training. The paper
folds in training, too; then the gradient's noise in the batch statistics reaches the weights.

`Conv` and `Dense` of this library quantise what they multiply, depthwise convolutions included, and the operations of
`models.ops` see the result. So the CPU's forms of convolutions are quantised, too. A network with other layers that
have kernels is refused (`report`).
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from registry import UserError, unknown

NAMES = {"int8": 8, "int4": 4}  # the option `quantize` of a network -> bits of the weights; inputs have 8

FAKE = "fake-quantised"  # how this library computes with quantised weights


@jax.custom_jvp
def straight_through(x: jax.Array, rounded: jax.Array) -> jax.Array:
    """`rounded`, with the derivative of `x`."""
    del x
    return rounded


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def weights(kernel: jax.Array, bits: int) -> jax.Array:
    """A kernel [..., channels] in float32, rounded to integers of `bits` bits times a scale for each channel."""
    integers, scale = integer_weights(jax.lax.stop_gradient(kernel), bits)
    return straight_through(kernel, integers * scale)


def integer_weights(kernel: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Returns (the integers [..., channels] as float32, the scales [channels]) of `weights`."""
    most = 2.0 ** (bits - 1) - 1
    scale = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1))) / most
    scale = jnp.where(scale > 0, scale, 1.0)
    return jnp.clip(jnp.round(kernel / scale), -most, most), scale


def input_scale(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (s, z) of a range, low <= 0 <= high, as float32."""
    scale = (high - low) / 255.0
    scale = jnp.where(scale > 0, scale, 1.0)
    return scale, jnp.round(-low / scale)


def inputs(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """An array [B, ...] rounded to integers of 8 bits times a scale.

    Args:
        x: float32.
        low, high: the range, low <= 0 <= high; scalars, or one number an image. What is outside becomes its end.
    """
    scale, zero = input_scale(low, high)
    integers = jnp.clip(jnp.round(jax.lax.stop_gradient(x) / scale) + zero, 0.0, 255.0)
    return straight_through(x, scale * (integers - zero))


def image_range(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest number of each image in [B, ...] and 0, as [B, 1, ...]."""
    x, axes = jax.lax.stop_gradient(x), tuple(range(1, x.ndim))
    return jnp.minimum(jnp.min(x, axes, keepdims=True), 0.0), jnp.maximum(jnp.max(x, axes, keepdims=True), 0.0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a network is quantised.

    Attributes:
        bits: of the weights, 8 or 4.
        ranges: (layer, low, high) of each layer's input; empty: the range of each image.
    """

    bits: int
    ranges: tuple[tuple[str, float, float], ...] = ()

    def operands(self, layer: str, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The input [B, ...] and the kernel of a layer, quantised."""
        wide = x.astype(jnp.float32)
        low, high = self.range_of(layer) if self.ranges else image_range(wide)
        return inputs(wide, low, high).astype(x.dtype), weights(kernel, self.bits)

    def range_of(self, layer: str) -> tuple[np.float32, np.float32]:
        """The fixed range of a layer's input. Raises `UserError` if the layer has none."""
        for name, low, high in self.ranges:
            if name == layer:
                return np.float32(low), np.float32(high)
        raise UserError(f"The option 'quantize' has no range for the input of {layer}.\nRepeat deploy.quantize.")

    @property
    def name(self) -> str:
        """The name of the rule in `NAMES`, without its ranges."""
        return {bits: name for name, bits in NAMES.items()}[self.bits]

    def __str__(self):
        which = "fixed ranges" if self.ranges else "a range for each image"
        return f"weights of {self.bits} bits (a scale for each channel), inputs of 8 bits ({which})"


def rule_of(quantize: str | Mapping) -> Rule:
    """The rule that a network's option `quantize` names.

    Args:
        quantize: a name in `NAMES`, or {"bits": 8 or 4, "ranges": {layer: [low, high]}}.

    Raises:
        UserError: neither.
    """
    if isinstance(quantize, str):
        if quantize not in NAMES:
            raise unknown("kind of quantisation", quantize, NAMES)
        return Rule(NAMES[quantize])
    try:
        ranges = tuple((str(name), float(low), float(high)) for name, (low, high) in quantize["ranges"].items())
        if quantize["bits"] not in NAMES.values() or not all(low <= 0 <= high for _, low, high in ranges):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"The option 'quantize' is {' or '.join(NAMES)}, or has bits (8 or 4) and ranges (layer: [low, high], with "
            f"0 between them); got {str(quantize)[:80]}."
        ) from None
    return Rule(quantize["bits"], ranges)


_change = jax.make_user_context(None)  # (layer, input, kernel) -> what the layer multiplies


def operands(layer: nn.Module, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a layer multiplies: its input and its kernel, quantised inside a quantised network."""
    change = _change.value
    return (x, kernel) if change is None else change("/".join(layer.path), x, kernel)


def quantised(model: nn.Module, quantize: str | Mapping) -> nn.Module:
    """The network with fake quantisation, in training and in evaluation; its variables are the same.

    Args:
        model: a network.
        quantize: see `rule_of`.
    """
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("parent", "name")}
    return _quantised_class(type(model), rule_of(quantize))(**fields)


@functools.cache  # equal networks have one class, so that JAX compiles once
def _quantised_class(network: type[nn.Module], rule: Rule) -> type[nn.Module]:
    def within(method):
        while hasattr(method, "method_handler_wrapped"):  # by Flax, which wraps the result again
            method = method.__wrapped__

        @functools.wraps(method)
        def call(*args, **kwargs):
            with _change(rule.operands):
                return method(*args, **kwargs)

        return call

    methods = {name: within(getattr(network, name)) for name in ("__call__", "classify") if hasattr(network, name)}
    return type(network.__name__, (network,), {**methods, "rule": rule, "__module__": network.__module__})


def layer_ranges(model: nn.Module, variables: dict, images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The layers that `quantised` reaches in a network that is not quantised, and what they read.

    Args:
        model: the network.
        variables: its variables.
        images: [B, H, W, C], normalised.

    Returns:
        name of the layer -> (smallest, largest) number of its input over all images, and 0.
    """
    found = {}

    def watch(layer, x, kernel):
        low, high = map(jnp.asarray, image_range(x.astype(jnp.float32)))
        before = found.get(layer, (0.0, 0.0))
        found[layer] = jnp.minimum(low.min(), before[0]), jnp.maximum(high.max(), before[1])
        return x, kernel

    with _change(watch):
        model.apply(variables, images, train=False)
    return found


def layers(model: nn.Module, variables: dict, image_shape: tuple[int, int, int]) -> list[tuple[str, np.ndarray]]:
    """(name, kernel) of every layer that multiplies, in the order of the forward pass; nothing is computed.

    Args:
        model: a network that is not quantised.
        variables: its variables.
        image_shape: [H, W, C].
    """
    found = []

    def watch(layer, x, kernel):
        found.append((layer, kernel))
        return x, kernel

    with _change(watch):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(lambda image: model.apply(variables, image, train=False), image)
    return found


def check(player, image_shape: tuple[int, int, int]) -> int:
    """The number of layers that `quantised` reaches in the network of a player (`models.Player`).

    Args:
        player: its network may be quantised or not.
        image_shape: [H, W, C] of the dataset's images.

    Raises:
        UserError: the network has layers with kernels that would stay float.
    """
    model = plain_of(player.model)
    image = jax.ShapeDtypeStruct((1, *player.view.shape(tuple(image_shape))), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    reached = jax.eval_shape(functools.partial(layer_ranges, model), variables, image)
    paths = traverse_util.flatten_dict(dict(variables["params"]))
    kernels = ["/".join(path[:-1]) for path, x in paths.items() if path[-1] == "kernel"]
    floats = [name for name in kernels if name not in reached]
    if floats or not reached:
        what = f"{len(floats)} of its {len(kernels)} kernels would stay float ({floats[0]})" if floats else "no kernels"
        raise UserError(
            f"The {player.name} ({type(model).__name__}) cannot be quantised: {what}.\n"
            "Networks of the library's own Conv and Dense layers can, such as ResNet8, VGG8 and MobileNetV2."
        )
    return len(reached)


def report(player, image_shape: tuple[int, int, int]) -> list[str]:
    """A line on what of a player's network is quantised; none if the network is not quantised. Arguments: `check`."""
    if not hasattr(player.model, "rule"):
        return []
    count = check(player, image_shape)
    floats = "batch norms, sums, pooling, activations and the logits"
    return [f"Quantised in the {player.name}: {count} layers, {player.model.rule}. Float: {floats}."]


def arithmetic(options: Mapping, how: str = FAKE) -> str:
    """How a network with these options computes: "float32", or, of a quantised one, "HOW: weights of ..."."""
    return f"{how}: {rule_of(options['quantize'])}" if "quantize" in options else "float32"


def plain_of(model: nn.Module) -> nn.Module:
    """The network without fake quantisation."""
    if not hasattr(model, "rule"):
        return model
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("parent", "name")}
    return type(model).__mro__[1](**fields)
