"""The base class of explanation maps: a hashable rule that computes a map of evidence for a class.

A rule has two uses:
    `rule(model, variables, images, target)` computes maps of a trained network and is compiled.
    `rule.of(outputs, target)` is the same mathematics on `models.Outputs`, for losses that train a map. The loss passes
        `rule.gradient_taps` to its forward pass.
Maps are not scaled to a range. The code that draws or compares maps scales them.
"""

import abc
import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import LAST_MAP, Outputs, forward, resolve
from models.vit import token_map


@dataclasses.dataclass(frozen=True)
class Explanation(abc.ABC):
    """A rule for a map of evidence. Subclasses define `of`, and `gradient_taps` if the rule reads gradients."""

    @property
    def gradient_taps(self) -> tuple[str, ...]:
        """The taps whose gradients `of` reads: the argument `gradient_taps` of `models.forward`."""
        return ()

    @abc.abstractmethod
    def of(self, outputs: Outputs, target: jax.Array) -> jax.Array:
        """Compute the map at its own resolution.

        Args:
            outputs: the outputs of `models.forward` with this map's `gradient_taps`.
            target: [B] int32, the class to explain for each image.

        Returns:
            [B, h, w] float32; float64 for float64 outputs.
        """

    def __call__(self, model: nn.Module, variables: dict, images: jax.Array, target: jax.Array) -> jax.Array:
        """Compute the map at the images' resolution, with the network in evaluation mode.

        The program is compiled once for each model and shape.

        Args:
            model: a network of `models`, or a network of yours whose call takes `deltas`.
            variables: `{"params": ..., "batch_stats": ...}`.
            images: [B, H, W, C] float32, normalised with the network's mean and deviation.
            target: [B] int32, the class to explain for each image.

        Returns:
            [B, H, W] float32, resized bilinearly.

        Raises:
            ValueError: images or targets of another shape, or a network without a tap that the map reads.
        """
        images, target = jnp.asarray(images), jnp.asarray(target)
        if images.ndim != 4:
            raise ValueError(f"Images have the shape [B, H, W, C]; got the shape {images.shape}.")
        if target.shape != images.shape[:1] or not jnp.issubdtype(target.dtype, jnp.integer):
            raise ValueError(
                f"{len(images)} images need ({len(images)},) integer classes; got {target.shape} {target.dtype}."
            )
        return _run(self, model, variables, images, target)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(rule: Explanation, model: nn.Module, variables: dict, images: jax.Array, target: jax.Array) -> jax.Array:
    outputs, _ = forward(model, variables, images, gradient_taps=rule.gradient_taps)
    return resize(rule.of(outputs, target), images.shape[1:3])


@functools.partial(jax.jit, static_argnums=(0, 3))
def top_k(model: nn.Module, variables: dict, images: jax.Array, k: int) -> jax.Array:
    """Return the `k` most probable classes of each image.

    Args:
        model, variables: the network.
        images: [B, H, W, C] float32, normalised.
        k: at most the number of classes.

    Returns:
        [B, k] int32, the most probable class first.
    """
    return jax.lax.top_k(forward(model, variables, images)[0].logits, k)[1].astype(jnp.int32)


def predicted(model: nn.Module, variables: dict, images: jax.Array) -> jax.Array:
    """Return the most probable class of each image [B, H, W, C]: [B] int32."""
    return top_k(model, variables, images, 1)[:, 0]


def wide(x: jax.Array) -> jax.Array:
    """Convert `x` to float32, the type in which maps are computed; float64 stays float64."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def resize(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize maps [B, h, w] bilinearly to [B, H, W], with antialiasing when shrinking."""
    return maps if maps.shape[1:] == tuple(size) else jax.image.resize(maps, (len(maps), *size), "bilinear")


def class_gradients(outputs: Outputs, target: jax.Array) -> dict[str, jax.Array]:
    """Return the gradient of each image's target logit at every gradient tap: tap -> array of the tap's shape."""
    return outputs.gradients(jax.nn.one_hot(target, outputs.logits.shape[-1], dtype=wide(outputs.logits).dtype))


def feature_and_gradient(outputs: Outputs, target: jax.Array, tap: str = "") -> tuple[jax.Array, jax.Array]:
    """Return the feature map at a tap and the gradient of the target logit at it.

    Args:
        outputs: the outputs of `models.forward` with this gradient tap.
        target: [B] int32.
        tap: the name of a feature; "" means `models.LAST_MAP`.

    Returns:
        Two arrays [B, h, w, C], float32 or float64. For a transformer, position (h, w) is a patch.

    Raises:
        ValueError: the network has no such tap, or the tap is no feature map.
    """
    (name,) = resolve(outputs.features, tap or LAST_MAP)
    if name not in outputs.features:
        raise ValueError(f"The network has no tap '{name}'; it has {sorted(outputs.features)}.")
    pair = outputs.features[name], class_gradients(outputs, target)[name]
    if pair[0].ndim not in (3, 4):
        raise ValueError(f"The tap '{name}' is no feature map: its shape is {pair[0].shape}. Choose a stage.")
    return tuple(wide(patches(x, outputs)) for x in pair)


def patches(feature: jax.Array, outputs: Outputs) -> jax.Array:
    """Return a feature as a map [B, h, w, C].

    Args:
        feature: a feature map [B, h, w, C], which is returned unchanged, or a transformer's tokens [B, tokens, C].
        outputs: the outputs that the feature belongs to.
    """
    if feature.ndim == 4:
        return feature
    return token_map(feature, *token_grid(feature.shape[1], outputs))


def token_grid(tokens: int, outputs: Outputs) -> tuple[int, tuple[int, int]]:
    """Find the grid of patches among a transformer's tokens.

    Args:
        tokens: the number of tokens: the patches and, before them, up to two others (class, distillation).
        outputs: the network's outputs. The grid has the proportions of the images in them; without images it is square.

    Returns:
        The number of tokens before the patches, and the grid's (rows, columns).

    Raises:
        ValueError: no such grid has this number of tokens.
    """
    height, width = (1, 1) if outputs.source is None else outputs.source.images.shape[1:3]
    unit = math.gcd(height, width)
    shape = height // unit, width // unit
    for extra in (0, 1, 2):
        times = math.isqrt(max(tokens - extra, 0) // (shape[0] * shape[1]))
        if times and times * shape[0] * times * shape[1] == tokens - extra:
            return extra, (times * shape[0], times * shape[1])
    raise ValueError(f"{tokens} tokens are no grid with the proportions {height} x {width} after 0 to 2 other tokens.")
