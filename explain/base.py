"""What every explanation map is: a hashable rule that takes a network's answer to a map of evidence for a class.

A rule is used in two ways. `rule(model, variables, images, target)` is a compiled function for looking at networks.
`rule.of(outputs, target)` is the same mathematics on `models.Outputs`, for losses that train a map: the caller declares
`rule.gradient_taps` in its forward pass. Maps are not scaled to a range; whoever draws or compares them does that.
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
    """A map of evidence. Subclasses define `of`, and `gradient_taps` where they read gradients."""

    @property
    def gradient_taps(self) -> tuple[str, ...]:
        """What `models.forward` is asked for, so that `of` finds its gradients."""
        return ()

    @abc.abstractmethod
    def of(self, outputs: Outputs, target: jax.Array) -> jax.Array:
        """The map at its own resolution.

        Args:
            outputs: of `models.forward` with this map's `gradient_taps`.
            target: [B] int32, the class to explain for each image.

        Returns:
            [B, h, w] float32 (float64 stays).
        """

    def __call__(self, model: nn.Module, variables: dict, images: jax.Array, target: jax.Array) -> jax.Array:
        """The map at the images' resolution, in evaluation mode; compiled once a model and shape.

        Args:
            model: a network of `models`, or one's own with `deltas`.
            variables: `{"params": ..., "batch_stats": ...}`.
            images: [B, H, W, C] float32, normalised as the network wants them.
            target: [B] int32, the class to explain for each image.

        Returns:
            [B, H, W] float32, resized bilinearly.

        Raises:
            ValueError: images or targets of another shape, or a network that does not have what the map reads.
        """
        images, target = jnp.asarray(images), jnp.asarray(target)
        if images.ndim != 4:
            raise ValueError(f"Images are [B, H, W, C]; got the shape {images.shape}.")
        if target.shape != images.shape[:1] or not jnp.issubdtype(target.dtype, jnp.integer):
            raise ValueError(f"{len(images)} images want ({len(images)},) classes; got {target.shape} {target.dtype}.")
        return _run(self, model, variables, images, target)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(rule: Explanation, model: nn.Module, variables: dict, images: jax.Array, target: jax.Array) -> jax.Array:
    outputs, _ = forward(model, variables, images, gradient_taps=rule.gradient_taps)
    return resize(rule.of(outputs, target), images.shape[1:3])


@functools.partial(jax.jit, static_argnums=(0, 3))
def top_k(model: nn.Module, variables: dict, images: jax.Array, k: int) -> jax.Array:
    """The `k` classes that the network finds most likely, best first: [B, k] int32, of images [B, H, W, C]."""
    return jax.lax.top_k(forward(model, variables, images)[0].logits, k)[1].astype(jnp.int32)


def predicted(model: nn.Module, variables: dict, images: jax.Array) -> jax.Array:
    """The class that the network finds most likely: [B] int32, of images [B, H, W, C]."""
    return top_k(model, variables, images, 1)[:, 0]


def wide(x: jax.Array) -> jax.Array:
    """`x` in float32, in which maps are computed; float64 stays."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def resize(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [B, h, w] bilinearly at another size: [B, H, W]. Where it shrinks, every position counts (antialiased)."""
    return maps if maps.shape[1:] == tuple(size) else jax.image.resize(maps, (len(maps), *size), "bilinear")


def class_gradients(outputs: Outputs, target: jax.Array) -> dict[str, jax.Array]:
    """Gradients of each image's target logit at the gradient taps: tap -> the tap's shape."""
    return outputs.gradients(jax.nn.one_hot(target, outputs.logits.shape[-1], dtype=wide(outputs.logits).dtype))


def feature_and_gradient(outputs: Outputs, target: jax.Array, tap: str = "") -> tuple[jax.Array, jax.Array]:
    """A tap's map and the gradient of the target logit there.

    Args:
        outputs: with gradients at the tap.
        target: [B] int32.
        tap: a feature's name; "" means `models.LAST_MAP`.

    Returns:
        Two arrays [B, h, w, C], `wide`; of a transformer the patches' tokens.

    Raises:
        ValueError: the network has no such tap, or it is no map.
    """
    (name,) = resolve(outputs.features, tap or LAST_MAP)
    if name not in outputs.features:
        raise ValueError(f"The network has no tap '{name}'; it has {sorted(outputs.features)}.")
    pair = outputs.features[name], class_gradients(outputs, target)[name]
    if pair[0].ndim not in (3, 4):
        raise ValueError(f"The tap '{name}' is no map: its shape is {pair[0].shape}. Take a stage.")
    return tuple(wide(patches(x, outputs)) for x in pair)


def patches(feature: jax.Array, outputs: Outputs) -> jax.Array:
    """A feature map [B, h, w, C] as it is; a transformer's tokens [B, tokens, C] as the map of its patches."""
    if feature.ndim == 4:
        return feature
    extra, grid = token_grid(feature.shape[1], None if outputs.source is None else outputs.source.images.shape[1:3])
    return token_map(feature, extra, grid)


def token_grid(tokens: int, size: tuple[int, int] | None = None) -> tuple[int, tuple[int, int]]:
    """How many tokens stand in front of the patches, and the patches' (rows, columns).

    Args:
        tokens: patches and up to two tokens in front: class, distillation.
        size: the image's (H, W), whose shape the patches have; None means a square.

    Raises:
        ValueError: the tokens make no such grid.
    """
    height, width = size or (1, 1)
    unit = math.gcd(height, width)
    shape = height // unit, width // unit
    for extra in (0, 1, 2):
        times = math.isqrt(max(tokens - extra, 0) // (shape[0] * shape[1]))
        if times and times * shape[0] * times * shape[1] == tokens - extra:
            return extra, (times * shape[0], times * shape[1])
    raise ValueError(f"{tokens} tokens make no grid in the shape of {height} x {width} behind 0 to 2 others.")
