"""The function that is exported: a trained network with its batch norms folded; a detector's finds its objects."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

import pretrained
from deploy.detector import decoded
from models import Outputs, forward, ops, quantization
from pretrained.players import player_of
from registry import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Graph:
    """A function of a batch of images, with the names of what it takes and returns.

    Attributes:
        function: images [B, *shape] -> a tuple of float32 arrays, one for each of `outputs`.
        shape: (H, W, C) of the images.
        dtype: of the images: "float32", normalised; or "uint8", pixels from 0 to 255.
        outputs: what `answers_of` names; then the taps.
        bits: of the kernels, if the format shall store integers; 0: the function is all.
        layers: (name, kernel, low, high) of every layer, in the order of the forward pass; low and high are the range
            of its input, and are missing if each image has its own. Empty if `bits` is 0.
    """

    function: Callable
    shape: tuple[int, int, int]
    dtype: str
    outputs: tuple[str, ...]
    bits: int = 0
    layers: tuple = ()

    input = "images"

    def named(self, images: jax.Array) -> dict[str, jax.Array]:
        """The function's results by their names."""
        return dict(zip(self.outputs, self.function(images), strict=True))


def build(
    weights: pretrained.Pretrained,
    arch: str = "",
    with_preprocessing: bool = False,
    taps: Sequence[str] = (),
    plain: bool = True,
    integers: str = "",
    suppression: bool = True,
) -> Graph:
    """Makes the function of some weights.

    Args:
        weights: what `pretrained.load` returned.
        arch: as in `pretrained.players.player_of`.
        with_preprocessing: the function takes pixels, normalises them and returns probabilities.
        taps: names of features (`models.Outputs.features`) that the function returns, too.
        plain: the function has JAX's own operations alone, without the CPU's forms (`models.ops.plain`).
        integers: `Target.integers`. If it is not empty, of quantised weights the function is the float network's, and
            `Graph.layers` has what rounds it.
        suppression: as in `answers_of`.

    Raises:
        UserError: weights that do not fit, a tap that the network does not have, or ranges of the other kind.
    """
    player, variables = player_of(weights, "network", arch=arch, frozen=True)
    shape, stored = tuple(weights.info["image_shape"]), {}
    if integers and (rule := getattr(player.model, "rule", None)):
        if bool(rule.ranges) != (integers == "fixed"):
            has, needs = "a range for each image", "fixed ranges"
            has, needs, count = (needs, has, " --calibrate 0") if rule.ranges else (has, needs, "")
            raise UserError(
                f"The inputs of layers in {weights.folder} have {has}; integers in this format need {needs}.\n"
                f"Make them: python -m deploy.quantize --param {weights.folder}{count} --out other"
            )
        player = dataclasses.replace(player, model=quantization.plain_of(player.model))
        found = quantization.layers(player.model, variables, shape)
        ends = rule.range_of if rule.ranges else lambda name: ()
        layers = tuple((name, kernel, *ends(name)) for name, kernel in found)
        stored = {"bits": rule.bits, "layers": layers}
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    features = jax.eval_shape(lambda x: forward(player.model, variables, x)[0].features, image)
    for tap in taps:
        if tap not in features:
            raise unknown("tap", tap, features)
    names, answers = answers_of(player.model, with_preprocessing, suppression)
    if same := set(names) & set(taps):
        raise UserError(f"--taps {same.pop()}: the file returns something else under this name. Leave it out.")
    if len(set(taps)) < len(taps):
        raise UserError(f"--taps {','.join(taps)} names a tap twice.")

    def function(images):
        with ops.plain() if plain else contextlib.nullcontext():
            if with_preprocessing:
                mean, std = (jnp.asarray(x, jnp.float32) for x in (player.mean, player.std))
                images = (images.astype(jnp.float32) / 255.0 - mean) / std
                if stored:  # LiteRT's converter would multiply the first kernel by 1 / std
                    images = jax.lax.optimization_barrier(images)
            outputs, _ = forward(player.model, variables, images)
            first = answers(outputs)
        return (*first, *(outputs.features[tap].astype(jnp.float32) for tap in taps))

    return Graph(function, shape, "uint8" if with_preprocessing else "float32", (*names, *taps), **stored)


def answers_of(
    model: nn.Module, with_preprocessing: bool, suppression: bool
) -> tuple[tuple[str, ...], Callable[[Outputs], tuple[jax.Array, ...]]]:
    """What a file returns besides taps.

    Args:
        model: the network.
        with_preprocessing: a classifier's file returns probabilities.
        suppression: the format can hold the loop of the non-maximum suppression.

    Returns:
        (names, a function: outputs -> an array for each name). The names are "logits" [B, K] or "probabilities" [B, K];
        of a detector "detections" [B, D, 6], as `deploy.Detector` has them, in pixels of the input. Without suppression
        "logits" [B, A, K] and "boxes" [B, A, 4], neither clipped nor suppressed.

    Raises:
        UserError: a network that needs the suppression before its last layer.
    """
    if not hasattr(model, "detections"):
        if with_preprocessing:
            return ("probabilities",), lambda outputs: (jax.nn.softmax(outputs.logits, axis=-1),)
        return ("logits",), lambda outputs: (outputs.logits,)
    if suppression:
        return ("detections",), lambda outputs: (model.found(outputs),)
    if hasattr(model, "proposals"):
        raise UserError(
            "This format cannot hold non-maximum suppression, and Faster R-CNN's proposals need it.\n"
            "Take another format: --to stablehlo."
        )
    return ("logits", "boxes"), lambda outputs: (outputs.logits, decoded(outputs))
