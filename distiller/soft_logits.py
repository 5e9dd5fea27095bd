"""SoftLogits: the teacher's softened class probabilities.

    loss = weight * T^2 * mean_b sum_k t_bk (log t_bk - log s_bk),   t, s = softmax(z / T)

Paper: Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. NIPS workshop 2014. arXiv:1503.02531.

The weights are those of the CIFAR-100 benchmarks (0.1 cross-entropy, 0.9 distillation, T = 4); the paper gives none.
The paper minimises the cross-entropy with the soft targets. The divergence differs from the cross-entropy by the
teacher's entropy, a constant, and is zero where the student equals the teacher.

`standardize` is the logit standardisation (LSKD) of Sun, Ren, Li, Wang, Cao. Logit Standardization in Knowledge
Distillation. CVPR 2024. arXiv:2403.01427: (z - mean(z)) / (std(z) + 1e-7) replaces each row z, in both networks. Its
CIFAR-100 recipe is weight 9, temperature 2, ce_weight 0.1.

`hard` is the hard-label distillation of Touvron, Cord, Douze, Massa, Sablayrolles, Jégou. Training Data-efficient Image
Transformers & Distillation through Attention. ICML 2021. arXiv:2012.12877, section 4: the loss is the cross-entropy
with the class that the teacher predicts, without a temperature. Its recipe is weight 0.5, ce_weight 0.5.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.target import refuse_two_classes
from options import not_negative, positive


def deviation(logits: jax.Array) -> jax.Array:
    """Unbiased standard deviation of the rows: [B, K] -> [B, 1]; 0, with a finite gradient, where a row is constant."""
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    constant = variance == 0  # where the root has no derivative
    return jnp.where(constant, 0.0, jnp.sqrt(jnp.where(constant, 1.0, variance)))


def standardize(logits: jax.Array) -> jax.Array:
    """Shifts and scales each row to mean 0 and (unbiased) standard deviation 1.

    Args:
        logits: [B, K], K at least 3 (two standardised logits are +-1/sqrt(2) whatever they were).

    Returns:
        [B, K] float32 (float64 stays); zero, with a finite gradient, where a row is constant.

    Raises:
        ValueError: fewer than 3 classes.
    """
    logits = wide(logits)
    refuse_two_classes("standardize=True", logits, "for two standardised logits the")
    return (logits - jnp.mean(logits, axis=-1, keepdims=True)) / (deviation(logits) + 1e-7)


def kl_divergence(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """KL(teacher || student) of softened probabilities, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        temperature: T, dimensionless, above 0: a number, or an array, [] or [B, 1], of the logits' type. The factor T^2
            keeps the size of the gradients about the same at all temperatures.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    student = jax.nn.log_softmax(student / temperature)
    teacher = jax.nn.log_softmax(teacher / temperature)
    return jnp.mean(temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1, keepdims=True))


def hard_cross_entropy(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Cross-entropy of the student with the class that the teacher predicts.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).

    Returns:
        Scalar: mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    predicted = jnp.argmax(teacher, axis=1, keepdims=True)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(student), predicted, axis=1))


class SoftLogits(Distiller):
    """Softened class probabilities, KL(teacher || student) * T^2.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Attributes:
        temperature: T, dimensionless.
        standardize: both networks' logits are standardised per row first (LSKD: with weight 9, temperature 2).
        hard: the cross-entropy with the teacher's predicted class replaces the divergence; no temperature.
    """

    weight: float = not_negative(0.9)
    ce_weight: float = not_negative(0.1)
    temperature: float = positive(4.0)
    standardize: bool = False
    hard: bool = False

    @nn.compact
    def __call__(self, student, teacher, batch):
        logits = student.logits, teacher.logits
        if self.standardize:
            logits = [standardize(z) for z in logits]
        loss = hard_cross_entropy(*logits) if self.hard else kl_divergence(*logits, self.temperature)
        loss = self.weight * loss
        return loss, {"SoftLogits": loss}
