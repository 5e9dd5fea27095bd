"""NKD: a label loss weighted by the teacher's probability of the label, and the distribution over the other classes.

    loss = weight * mean_b (-t_y log s_y - gamma * T^2 * sum_k t'_k log s'_k)
    t, s = softmax(z), y the label;   t', s' = softmax(z / T) over the classes other than y

Paper: Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
with Normalized Loss and Customized Soft Labels. ICCV 2023. arXiv:2303.13005.

The defaults are for CIFAR-100; ImageNet recipes have temperature 1 and gamma 1.5. Both terms are cross-entropies, so
the loss of a student that equals the teacher is not 0. Only the second term has its minimum there. T is not in the
first term. The mean is over the labelled rows of the batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.target import labelled_mean, refuse_two_classes, split_target
from options import not_negative, positive


def target_rows(student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array) -> jax.Array:
    """-t_y log s_y of every row.

    Args:
        student_logits, teacher_logits: [B, K] of one float type.
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.

    Returns:
        [B], natural log.
    """
    student, _ = split_target(jax.nn.log_softmax(student_logits), label)
    teacher, _ = split_target(jax.nn.softmax(teacher_logits), label)
    return -(teacher * student)[:, 0]


def other_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """Cross-entropy of the distributions over the classes other than the label's, times T^2.

    Args:
        student_logits, teacher_logits: [B, K] of one float type.
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        temperature: dimensionless, above 0.

    Returns:
        [B], summed over classes, natural log.
    """
    _, student = split_target(student_logits / temperature, label)
    _, teacher = split_target(teacher_logits / temperature, label)
    return -(temperature**2) * jnp.sum(jax.nn.softmax(teacher) * jax.nn.log_softmax(student), axis=1)


class NKD(Distiller):
    """Normalised non-target classes, and the teacher's confidence in the label.

    Paper: Yang, Zeng, Li, Zhang, Yuan, Li, ICCV 2023, arXiv:2303.13005

    Attributes:
        gamma: weight of the other classes' cross-entropy.
        temperature: T of the other classes, dimensionless.
    """

    needs_labels = True
    gamma: float = not_negative(3.5)
    temperature: float = positive(3.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        refuse_two_classes("NKD", student.logits)
        logits = matched(student.logits, teacher.logits)
        target = labelled_mean(target_rows(*logits, batch.label), batch.label)
        others = labelled_mean(other_rows(*logits, batch.label, self.temperature), batch.label)
        terms = {"NKD_target": self.weight * target, "NKD_others": self.weight * self.gamma * others}
        return sum(terms.values()), terms
