"""WSLD: the teacher's softened probabilities; images whose label the student predicts better have little weight.

    loss = weight * T^2 * mean_b f_b * (-sum_k t_bk log s_bk),   t, s = softmax(z / T)
    f = 1 - exp(-CE(z_s, y) / CE(z_t, y)),   y the label, no gradient

Paper: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang. Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
Tradeoff Perspective. ICLR 2021. arXiv:2102.00650.

Weight 2.5 and temperature 2 are the authors' for ImageNet. 1e-7 is added to the teacher's cross-entropy, as in their
code. f needs the label: the mean is over the labelled rows of the batch. The loss is a weighted cross-entropy, so the
loss of a student that equals the teacher is not 0.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.target import labelled_mean, split_target
from options import not_negative, positive


def weighted_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """Cross-entropy with the softened teacher, times T^2 and the weight f.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        temperature: dimensionless, above 0.

    Returns:
        [B], summed over classes, natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    own, its = (-split_target(jax.nn.log_softmax(z), label)[0][:, 0] for z in (student, teacher))
    factor = jax.lax.stop_gradient(-jnp.expm1(-own / (its + 1e-7)))
    log_student = jax.nn.log_softmax(student / temperature)
    rows = -jnp.sum(jax.nn.softmax(teacher / temperature) * log_student, axis=1)
    return temperature**2 * factor * rows


class WSLD(Distiller):
    """Softened probabilities, weighted by how much worse the student's label loss is than the teacher's.

    Paper: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, ICLR 2021, arXiv:2102.00650

    Attributes:
        temperature: T, dimensionless.
    """

    needs_labels = True
    weight: float = not_negative(2.5)
    temperature: float = positive(2.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        rows = weighted_rows(student.logits, teacher.logits, batch.label, self.temperature)
        loss = self.weight * labelled_mean(rows, batch.label)
        return loss, {"WSLD": loss}
