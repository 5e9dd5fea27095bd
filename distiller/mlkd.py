"""MLKD: class probabilities at several temperatures, and the Gram matrices of classes and of images, on two views.

    loss = weight * sum_views sum_T (KD_T + ||S'S - T'T||^2 / K + ||SS' - TT'||^2 / B),   S, T = softmax(z / T), [B, K]
    KD_T: T^2 * KL(teacher || student), mean over the batch

Paper: Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.

Each image comes in two views: with the usual augmentation ("weak") and with RandAugment(2, 10) on top ("strong").
Every view has the same loss. The published recipe is that of the CIFAR-100 benchmarks with half its learning rate
(0.025).

Deviations. The released code's label loss covers both views; here the step adds the label loss on the first view only.
`released=True` also repeats three defects of the released code, on which its published numbers rest: half of each weak
loss is lost, because confidence masks multiply sums instead of their summands; the strong KD term reads the weak
view's logits for the last two temperatures; the strong view has no Gram terms. `standardize` is LSKD's
(soft_logits.py) and, as in its code, applies to the KD terms only. LSKD's recipe is weight 9 (of all terms),
temperatures (2, 3, 5, 2, 6) and ce_weight 0.1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import kl_divergence, standardize
from options import not_negative, positive


def _probabilities(student_logits, teacher_logits, temperature):
    return (jax.nn.softmax(z / temperature) for z in matched(student_logits, teacher_logits))


def class_gram_loss(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Squared difference of the classes' Gram matrices [K, K] of probabilities.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        temperature: dimensionless, above 0.

    Returns:
        Scalar: sum over pairs of classes, divided by K; grows with the square of the batch size.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return jnp.sum(jnp.square(student.T @ student - teacher.T @ teacher)) / student.shape[1]


def batch_gram_loss(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Squared difference of the images' Gram matrices [B, B] of probabilities.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        temperature: dimensionless, above 0.

    Returns:
        Scalar: sum over pairs of images, divided by B.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return jnp.sum(jnp.square(student @ student.T - teacher @ teacher.T)) / student.shape[0]


def median_share(values: jax.Array) -> jax.Array:
    """The share of `values` [N] that do not exceed their median: 1/2 if N is even and no two are equal."""
    return jnp.mean((values <= jnp.median(values)).astype(values.dtype))


class MLKD(Distiller):
    """Probabilities at several temperatures, class-level and batch-level Gram matrices, two views.

    Paper: Jin, Wang, Lin, CVPR 2023

    Attributes:
        temperatures: the values of T over which the losses are summed.
        standardize: both networks' logits are standardised per row for the KD terms (LSKD).
        released: compute the loss of the released code, defects included.
    """

    weight: float = not_negative(0.9)
    ce_weight: float = not_negative(0.1)
    temperatures: tuple[float, ...] = positive((4.0, 3.0, 5.0, 2.0, 6.0))
    standardize: bool = False
    released: bool = False
    views = ("weak", "strong")

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = [
            (s.logits, t.logits) for s, t in zip((student, *student.views), (teacher, *teacher.views), strict=True)
        ]
        kd, by_class, by_image = self._released(pairs) if self.released else self._sums(pairs)
        terms = {
            "MLKD_kd": self.weight * kd,
            "MLKD_class": self.weight * by_class,
            "MLKD_batch": self.weight * by_image,
        }
        return sum(terms.values()), terms

    def _sums(self, pairs):
        everything = [(pair, t) for pair in pairs for t in self.temperatures]
        kd = sum(self._kd(pair, t) for pair, t in everything)
        by_class = sum(class_gram_loss(*pair, t) for pair, t in everything)
        return kd, by_class, sum(batch_gram_loss(*pair, t) for pair, t in everything)

    def _released(self, pairs):
        weak, strong = pairs[0], pairs[1:]
        _, teacher = _probabilities(*weak, 1.0)
        images, classes = median_share(jnp.max(teacher, axis=1)), median_share(jnp.sum(teacher, axis=0))
        kd, by_class, by_image = self._sums([weak])
        first, last = self.temperatures[:-2], self.temperatures[-2:]
        second = sum(self._kd(pair, t) for pair in strong for t in first) + sum(self._kd(weak, t) for t in last)
        return images * kd + second, classes * by_class, images * by_image

    def _kd(self, pair, temperature):
        logits = [standardize(z) for z in pair] if self.standardize else pair
        return kl_divergence(*logits, temperature)
