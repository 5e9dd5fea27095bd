"""ExplanationMatch: any explanation map, by any of four distances.

    loss = weight * mean_{b,k} distance(map_s, map_t)

    cosine    1 - cos(m_s, m_t)
    l2        mean_hw (m_s - m_t)^2, of the maps themselves
    softmax   sum_hw (p(m_s) - p(m_t))^2,            p(m) = softmax over positions of m / (T rms(m))
    kl        sum_hw p(m_t) (log p(m_t) - log p(m_s))

Paper: none; this library's general form of E2KD, LwM and similar methods, for trying out maps.

The map is any of `explain.names()` that both networks support. All maps are differentiable with respect to the weights.
SmoothGrad, IntegratedGradients and RISE run both networks again, in evaluation mode, at many times the cost of a step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.maps import cosine_distance, map_rule, maps_of, masked_mean, same_size, taught_classes
from options import not_negative, one_of, only_with, positive


def _log_shares(maps: jax.Array, temperature: float) -> jax.Array:
    """Log-softmax over the positions of maps [B, k, h, w], each divided by its own root mean square: [B, k, h * w]."""
    flat = maps.reshape(*maps.shape[:2], -1)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(flat), axis=-1, keepdims=True) + 1e-24)
    return jax.nn.log_softmax(flat * scale / temperature)


def map_distance(student: jax.Array, teacher: jax.Array, distance: str, temperature: float = 1.0) -> jax.Array:
    """Computes the distance between maps.

    Args:
        student, teacher: [B, k, h, w].
        distance: "cosine", "l2", "softmax" or "kl".
        temperature: of "softmax" and "kl", dimensionless, above 0.

    Returns:
        [B, k], not negative, 0 where the maps are equal.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    if distance == "cosine":
        return cosine_distance(student, teacher)
    if distance == "l2":
        return jnp.mean(jnp.square(student - teacher), axis=(2, 3))
    student, teacher = _log_shares(student, temperature), _log_shares(teacher, temperature)
    if distance == "softmax":
        return jnp.sum(jnp.square(jnp.exp(student) - jnp.exp(teacher)), axis=-1)
    return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


class ExplanationMatch(Distiller):
    """Any explanation map of the teacher's classes or of the label's class, by any of four distances.

    Paper: none; this library's general form of the methods on explanation maps

    Attributes:
        map: one of `explain.names()`. LayerCAM is seldom zero everywhere; GradCAM may be, because of its ReLU.
        tap: the tap of the map, for maps that have the choice; "" is the last stage.
        distance: "cosine", "l2", "softmax" or "kl".
        temperature: T of "softmax" and "kl", dimensionless.
        classes: "teacher": the teacher's `top_k` likeliest classes; "label": the label (images without a label are left
            out).
        top_k: number of the teacher's classes.
    """

    weight: float = not_negative(1.0)
    map: str = "LayerCAM"
    tap: str = ""
    distance: str = one_of("cosine", "l2", "softmax", "kl")
    temperature: float = only_with(positive(1.0), distance=("softmax", "kl"))
    classes: str = one_of("teacher", "label")
    top_k: int = only_with(positive(1), classes=("teacher",))

    @property
    def gradient_taps(self):
        return map_rule(self.map, self.tap).gradient_taps

    @property
    def needs_labels(self):
        return self.classes == "label"

    @nn.compact
    def __call__(self, student, teacher, batch):
        rule = map_rule(self.map, self.tap)
        classes, mask = taught_classes(self.classes, teacher.logits, batch.label, self.top_k)
        pair = same_size(*(maps_of(rule, outputs, classes) for outputs in (student, teacher)))
        found = jnp.mean(map_distance(*pair, self.distance, self.temperature), axis=1)
        loss = self.weight * masked_mean(found, mask)
        return loss, {"ExplanationMatch": loss}
