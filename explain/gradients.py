"""Gradients at the input: how the logit of the target class changes with each pixel.

    InputGradient        max_c |dy_k/dx_c|
    GradientTimesInput   sum_c x_c dy_k/dx_c
    SmoothGrad           max_c |mean_n dy_k/dx_c (x + noise_n)|,     noise of deviation `noise` * (max x - min x)
    IntegratedGradients  sum_c (x_c - b_c) mean_a dy_k/dx_c (b + a (x - b)),   a = (1/2 ... steps - 1/2) / steps

Papers: Simonyan et al. Deep Inside Convolutional Networks. ICLR workshop 2014. arXiv:1312.6034. Shrikumar et al. Not
Just a Black Box. 2016. arXiv:1605.01713. Smilkov et al. SmoothGrad. 2017. arXiv:1706.03825. Sundararajan et al.
Axiomatic Attribution for Deep Networks. ICML 2017. arXiv:1703.01365.

x is the normalised image, so a baseline b of 0 is the mean colour of the training set. IntegratedGradients is complete:
the map sums to y_k(x) - y_k(b), up to the error of the midpoint rule for the integral. SmoothGrad draws the same noise
for every image. As in the paper, SmoothGrad averages signed gradients; the absolute value is taken after the mean.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, class_gradients, wide
from models import Outputs
from registry import UserError

REDUCTIONS = {
    "max": lambda g: jnp.max(jnp.abs(g), axis=-1),
    "sum": lambda g: jnp.sum(jnp.abs(g), axis=-1),
    "l2": lambda g: jnp.sqrt(jnp.sum(jnp.square(g), axis=-1) + 1e-24),
}


def gradients_at(outputs: Outputs, images: jax.Array, target: jax.Array, per_pass: int) -> jax.Array:
    """Return the gradient of the target logit at the input, as the mean over N variants of the batch.

    Args:
        outputs: of the network and the batch.
        images: [N, B, H, W, C], the variants.
        target: [B] int32.
        per_pass: variants in one forward and backward pass. More take more memory; fewer make a larger program.

    Returns:
        [B, H, W, C].
    """
    total = 0.0
    for start in range(0, len(images), per_pass):
        part = images[start : start + per_pass]
        variant = outputs.again(part.reshape(-1, *part.shape[2:]), gradient_taps=("input",))
        gradient = class_gradients(variant, jnp.tile(target, len(part)))["input"]
        total = total + jnp.sum(wide(gradient).reshape(part.shape), axis=0)
    return total / len(images)


def positive(rule, *names: str) -> None:
    """Raise `UserError` unless these options of the map are above 0."""
    for name in names:
        if getattr(rule, name) <= 0:
            raise UserError(f"'{name}' of {type(rule).__name__} must be above 0; got {getattr(rule, name)}.")


@dataclasses.dataclass(frozen=True)
class InputGradient(Explanation):
    """Gradient of the logit at each pixel: the largest absolute value over the channels.

    Paper: Simonyan et al., ICLR workshop 2014, arXiv:1312.6034

    Attributes:
        reduce: the reduction over the channels: "max" or "sum" of absolute values, or "l2", the L2 norm.
    """

    reduce: str = "max"

    def __post_init__(self):
        if self.reduce not in REDUCTIONS:
            raise UserError(f"'reduce' must be one of {', '.join(REDUCTIONS)}; got {self.reduce!r}.")

    @property
    def gradient_taps(self):
        return ("input",)

    def of(self, outputs, target):
        return REDUCTIONS[self.reduce](wide(class_gradients(outputs, target)["input"]))


@dataclasses.dataclass(frozen=True)
class GradientTimesInput(Explanation):
    """Gradient of the logit times the pixel, summed over the channels, with sign.

    Paper: Shrikumar et al., 2016, arXiv:1605.01713
    """

    @property
    def gradient_taps(self):
        return ("input",)

    def of(self, outputs, target):
        return jnp.sum(wide(class_gradients(outputs, target)["input"] * outputs.asked().images), axis=-1)


@dataclasses.dataclass(frozen=True)
class SmoothGrad(Explanation):
    """The input gradient, averaged over noisy copies of the image.

    Paper: Smilkov et al., 2017, arXiv:1706.03825

    Attributes:
        samples: number of noisy copies.
        noise: standard deviation of the noise, as a share of the image's range (max - min).
        reduce: as in `InputGradient`.
        seed: seed of the noise.
        per_pass: copies in one pass through the network.
    """

    samples: int = 16
    noise: float = 0.15
    reduce: str = "max"
    seed: int = 0
    per_pass: int = 32

    def __post_init__(self):
        InputGradient(self.reduce)
        positive(self, "samples", "per_pass")

    def of(self, outputs, target):
        images = outputs.asked().images
        scale = self.noise * jnp.ptp(images, axis=(1, 2, 3), keepdims=True)
        noise = jax.random.normal(jax.random.key(self.seed), (self.samples, 1, *images.shape[1:]), images.dtype)
        return REDUCTIONS[self.reduce](gradients_at(outputs, images + scale * noise, target, self.per_pass))


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(Explanation):
    """The input gradient, averaged on the line from a baseline to the image, times their difference.

    Paper: Sundararajan, Taly, Yan, ICML 2017, arXiv:1703.01365

    Attributes:
        steps: number of points on the line.
        baseline: normalised value of every pixel of the baseline; 0 is the mean colour.
        per_pass: points in one pass through the network.
    """

    steps: int = 32
    baseline: float = 0.0
    per_pass: int = 32

    def __post_init__(self):
        positive(self, "steps", "per_pass")

    def of(self, outputs, target):
        difference = outputs.asked().images - self.baseline
        points = (jnp.arange(self.steps, dtype=difference.dtype) + 0.5) / self.steps
        images = self.baseline + points[:, None, None, None, None] * difference
        return jnp.sum(wide(difference) * gradients_at(outputs, images, target, self.per_pass), axis=-1)
