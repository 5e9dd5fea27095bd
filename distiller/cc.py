"""CC: correlations between the examples of a batch, in one of two forms.

    kernel = False:  loss = weight * mean_i <|s_i - t_i|, |s_i+1 - t_i+1|>
    kernel = True:   loss = weight * mean_ij (k(s_i, s_j) - k(t_i, t_j))^2,
                     k(x, y) = sum_{p <= order} exp(-2 gamma) (2 gamma)^p / p! cos(x, y)^p

Paper: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang. Correlation Congruence for Knowledge Distillation. ICCV 2019.
arXiv:1904.01802. (The kernel is a Taylor expansion of the Gaussian kernel.)

The default is the form behind the benchmarks' numbers, not the paper's formula. RepDistiller has this form from the
paper's author. The form multiplies the differences of consecutive examples. Its value therefore depends on the order
of the batch, and its gradient is zero where the student equals the teacher in every other example.

RepDistiller projects both embeddings to 128 numbers by learned layers, as `project_to=128` does here. Two learned
projections can agree by both being zero, so the default has at most one. Embeddings of equal width are compared
directly. If the widths differ, only the student's embedding is projected.

The kernel form needs no projection. Its numbers are Knowledge-Distillation-Zoo's: embeddings of unit length, gamma
0.4, order 2, the mean over pairs, weight 100.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.normalised import Linear, embedding, flat, unit
from options import not_negative, only_with, positive


def consecutive_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Products of the absolute differences of consecutive examples.

    Args:
        student, teacher: [B, D], any float type; computed in float32 (float64 stays).

    Returns:
        Scalar: sum over D, mean over the B - 1 neighbours (zero for a single example).

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    difference = jnp.abs(student - teacher)
    return jnp.sum(difference[:-1] * difference[1:]) / max(len(difference) - 1, 1)


def correlation(feature: jax.Array, gamma: float = 0.4, order: int = 2) -> jax.Array:
    """[B, ...] -> [B, B]: the Gaussian kernel exp(-gamma |x - y|^2) of unit rows, expanded to `order`."""
    feature = unit(flat(feature))
    cosine = feature @ feature.T
    total = jnp.ones_like(cosine)
    for p in range(order, 0, -1):
        total = 1 + total * cosine * (2 * gamma / p)
    return math.exp(-2 * gamma) * total


def kernel_loss(student: jax.Array, teacher: jax.Array, gamma: float = 0.4, order: int = 2) -> jax.Array:
    """Squared difference of the correlations of [B, D] and [B, D']. Scalar: mean over the B^2 pairs."""
    return jnp.mean(jnp.square(correlation(student, gamma, order) - correlation(teacher, gamma, order)))


class CC(Distiller):
    """Correlations between the batch's examples: of consecutive examples, or of all pairs by a kernel.

    Paper: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang, ICCV 2019, arXiv:1904.01802

    Attributes:
        kernel: compare all pairs by the paper's kernel (use weight 100), not consecutive examples.
        gamma, order: coefficient and order of the kernel's expansion.
        project_to: width to which both embeddings are projected, without `kernel`; 0: project only the student's
            embedding, if the widths differ.
    """

    weight: float = not_negative(0.02)
    kernel: bool = False
    gamma: float = only_with(positive(0.4), kernel=(True,))
    order: int = only_with(positive(2), kernel=(True,))
    project_to: int = only_with(not_negative(0), kernel=(False,))
    least_batch: ClassVar[int] = 2

    @property
    def order_matters(self) -> bool:
        return not self.kernel

    @nn.compact
    def __call__(self, student, teacher, batch):
        s, t = embedding(student, "student"), embedding(teacher, "teacher")
        if self.kernel:
            loss = kernel_loss(s, t, self.gamma, self.order)
        else:
            if self.project_to:
                t = Linear(self.project_to, name="teacher_projection")(t)
            if self.project_to or s.shape != t.shape:
                s = Linear(t.shape[-1], name="student_projection")(s)
            loss = consecutive_loss(s, t)
        loss = self.weight * loss
        return loss, {"CC": loss}
