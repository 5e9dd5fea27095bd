"""The function that is exported: a trained network with its batch norms folded."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

import pretrained
from models import forward, ops, quantization
from pretrained.players import player_of
from registry import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Graph:
    """A function of a batch of images, with the names of what it takes and returns.

    Attributes:
        function: images [B, *shape] -> a tuple of float32 arrays, one for each of `outputs`.
        shape: (H, W, C) of the images.
        dtype: of the images: "float32", normalised; or "uint8", pixels from 0 to 255.
        outputs: "logits" [B, K], or "probabilities" of uint8 images; then the taps.
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
            first = jax.nn.softmax(outputs.logits, axis=-1) if with_preprocessing else outputs.logits
        return (first, *(outputs.features[tap].astype(jnp.float32) for tap in taps))

    kind = ("uint8", "probabilities") if with_preprocessing else ("float32", "logits")
    return Graph(function, shape, kind[0], (kind[1], *taps), **stored)
