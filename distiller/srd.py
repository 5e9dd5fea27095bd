"""SRD: the teacher's batch-normalised embedding, matched by a projection of the student's, and its probabilities.

    loss = weight * (feature_weight * log sum_bk |BN(W f_s + b) - BN(f_t)|^alpha + T^2 mean_b KL(teacher || student))

Paper: Miles, Mikolajczyk. Understanding the Role of the Projector in Knowledge Distillation. AAAI 2024.
arXiv:2303.11098.

Form and numbers are those of the authors' ImageNet code: alpha 4, feature_weight 2, T = 1, batch norms without
parameters by the batch's statistics (epsilon 1e-4), a projection with bias. 1e-8 is added to the sum, so that the loss
of equal features is finite. The loss may be negative.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.normalised import Linear, batch_normalised, embedding
from distiller.soft_logits import kl_divergence
from options import at_least, not_negative, positive


def log_sum_distance(student: jax.Array, teacher: jax.Array, alpha: float = 4.0) -> jax.Array:
    """log(1e-8 + sum |difference|^alpha) of batch-normalised features.

    Args:
        student, teacher: [B, D], any float type; computed in float32 (float64 stays).
        alpha: at least 1. A larger alpha gives more weight to the largest differences.

    Returns:
        Scalar: sum over batch and D within the natural logarithm.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    difference = jnp.abs(batch_normalised(student, 1e-4) - batch_normalised(teacher, 1e-4))
    return jnp.log(jnp.sum(difference**alpha) + 1e-8)


class SRD(Distiller):
    """Batch-normalised embedding after a linear projection, logarithm of summed powers, and the probabilities.

    Paper: Miles, Mikolajczyk, AAAI 2024, arXiv:2303.11098

    Attributes:
        feature_weight: weight of the embeddings' term.
        alpha: power of the embeddings' differences.
        temperature: T of the probabilities, dimensionless.
    """

    weight: float = not_negative(1.0)
    feature_weight: float = not_negative(2.0)
    alpha: float = at_least(1.0, 4.0)
    temperature: float = positive(1.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        s, t = embedding(student, "student"), embedding(teacher, "teacher")
        s = Linear(t.shape[-1], name="projector")(s)
        terms = {
            "SRD_feature": self.weight * self.feature_weight * log_sum_distance(s, t, self.alpha),
            "SRD_logits": self.weight * kl_divergence(student.logits, teacher.logits, self.temperature),
        }
        return sum(terms.values()), terms
