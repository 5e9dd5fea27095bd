"""SoftLogits: the teacher's softened class probabilities.

    loss = weight * T^2 * mean_b sum_k t_bk (log t_bk - log s_bk),   t, s = softmax(z / T)

Paper: Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. NIPS workshop 2014. arXiv:1503.02531.

Weights are those of the CIFAR-100 benchmarks (0.1 cross-entropy, 0.9 distillation, T = 4); the paper gives none.
The paper minimises the cross-entropy with the soft targets; the divergence differs from it by the teacher's entropy,
a constant, and is zero where the student equals the teacher.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched


def kl_divergence(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """KL(teacher || student) of softened probabilities, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        temperature: dimensionless, above 0. T^2 is in: gradients keep their size over temperatures.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    student = jax.nn.log_softmax(student / temperature)
    teacher = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


class SoftLogits(Distiller):
    """Softened class probabilities, KL(teacher || student) * T^2.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Attributes:
        temperature: T, dimensionless.
    """

    weight: float = 0.9
    ce_weight: float = 0.1
    temperature: float = 4.0

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss = self.weight * kl_divergence(student.logits, teacher.logits, self.temperature)
        return loss, {"SoftLogits": loss}
