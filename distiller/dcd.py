"""DCD: an example's two embeddings find each other in the batch, and both networks see the batch alike.

    u = unit(W_s f_s + b_s), v = unit(W_t f_t + b_t),   L = min(exp(theta), largest) * U V' [B, B]
    p_i = softmax(L_i.): student i among the teachers,   q_i = softmax(L_.i): teacher i among the students
    loss = weight * mean_i (-log p_ii + consistency * sum_j q_ij (log q_ij - log p_ij))

Paper: Giakoumoglou, Stathaki. Discriminative and Consistent Representation Distillation. 2024. arXiv:2407.11802.

The negatives are the other examples of the batch, so there is no memory. exp(theta), an inverse temperature, is
learned: theta starts at 1. Above `largest` (10) it gets no gradient. Both terms teach both projections. The paper also
learns an offset that is added to L. A softmax does not change if a constant is added to all of its inputs, so the
offset has no effect and gets no gradient; it is left out. The authors' commands add the cross-entropy with weight 1,
and KD with weight 1 for DCD+KD (`SoftLogits+DCD`).
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.normalised import Linear, embedding, unit
from options import not_negative, positive


def contrast_and_consistency(similarity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two terms.

    Args:
        similarity: [B, B] float32, row i: student i with each teacher, times the inverse temperature.

    Returns:
        (cross-entropy of the rows with the diagonal, KL(columns || rows)), scalars, means over the batch.
    """
    rows, columns = jax.nn.log_softmax(similarity), jax.nn.log_softmax(similarity.T)
    consistency = jnp.mean(jnp.sum(jnp.exp(columns) * (columns - rows), axis=1))
    return -jnp.mean(jnp.diagonal(rows)), consistency


class DCD(Distiller):
    """Contrast of each example's two embeddings with the batch's, and agreement of both networks on the batch.

    Paper: Giakoumoglou, Stathaki, 2024, arXiv:2407.11802

    Attributes:
        consistency: weight of the second term.
        feat_dim: width of the embeddings that are compared.
        largest: upper limit of the learned inverse temperature.
    """

    weight: float = not_negative(1.0)
    consistency: float = not_negative(0.5)
    feat_dim: int = positive(128)
    largest: float = positive(10.0)
    least_batch: ClassVar[int] = 2

    @nn.compact
    def __call__(self, student, teacher, batch):
        s = unit(Linear(self.feat_dim, name="embed_student")(embedding(student, "student")))
        t = unit(Linear(self.feat_dim, name="embed_teacher")(embedding(teacher, "teacher")))
        theta = self.param("theta", nn.initializers.ones, (), jnp.float32).astype(s.dtype)
        contrast, consistency = contrast_and_consistency(jnp.minimum(jnp.exp(theta), self.largest) * (s @ t.T))
        terms = {
            "DCD_contrast": self.weight * contrast,
            "DCD_consistency": self.weight * self.consistency * consistency,
        }
        return sum(terms.values()), terms
