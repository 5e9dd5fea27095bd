"""TTM: the teacher's probabilities at a temperature, matched by the student's probabilities without one.

    TTM:   loss = weight * mean_b KL(p_b || s_b),           p = t^gamma / sum_k t_k^gamma,   t, s = softmax(z)
    WTTM:  loss = weight * mean_b u_b KL(p_b || s_b),       u = sum_k t_k^gamma

Paper: Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024. arXiv:2402.11148.

gamma is 1 / temperature. u is largest where the teacher is least sure. The cross-entropy has weight 1. The weight
depends on gamma and on the pair. The defaults are those of the two examples in the authors' README: TTM with gamma 0.1
and weight 45 (VGG13 to VGG8), WTTM with gamma 0.2 and weight 4 (the same pair, beside CRD). A student that equals the
teacher has a loss above 0 unless gamma is 1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from options import not_negative, positive


def transformed_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, gamma: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """KL(transformed teacher || student) of every row, and the weight of the row in WTTM.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        gamma: exponent of the teacher's probabilities, above 0.

    Returns:
        (divergences [B], summed over classes, natural log; weights [B], from 1 for a sure teacher to K^(1 - gamma)
        for a teacher that knows nothing, if gamma is below 1).

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    powers = gamma * jax.nn.log_softmax(teacher)
    target, student = jax.nn.log_softmax(powers), jax.nn.log_softmax(student)
    divergence = jnp.sum(jnp.exp(target) * (target - student), axis=1)
    return divergence, jnp.exp(jax.nn.logsumexp(powers, axis=1))


class TTM(Distiller):
    """Probabilities at the teacher's temperature, which the student matches without a temperature.

    Paper: Zheng, Yang, ICLR 2024, arXiv:2402.11148

    Attributes:
        gamma: exponent of the teacher's probabilities, 1 / temperature.
    """

    weight: float = not_negative(45.0)
    gamma: float = positive(0.1)

    @nn.compact
    def __call__(self, student, teacher, batch):
        divergence, _ = transformed_rows(student.logits, teacher.logits, self.gamma)
        loss = self.weight * jnp.mean(divergence)
        return loss, {"TTM": loss}


class WTTM(Distiller):
    """Probabilities as in TTM; images of which the teacher is unsure have more weight.

    Paper: Zheng, Yang, ICLR 2024, arXiv:2402.11148

    Attributes:
        gamma: exponent of the teacher's probabilities, 1 / temperature.
    """

    weight: float = not_negative(4.0)
    gamma: float = positive(0.2)

    @nn.compact
    def __call__(self, student, teacher, batch):
        divergence, weights = transformed_rows(student.logits, teacher.logits, self.gamma)
        loss = self.weight * jnp.mean(weights * divergence)
        return loss, {"WTTM": loss}
