"""Logits: the teacher's class scores before the softmax.

    loss = weight * mean_bk (s_bk - t_bk)^2

Paper: Ba, Caruana. Do Deep Nets Really Need to be Deep? NIPS 2014. arXiv:1312.6184, equation 1.

The paper halves the square and trains on this loss alone. The mean over batch and classes, and the weight 0.1 beside
the cross-entropy, are those of Knowledge-Distillation-Zoo.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from options import not_negative


def squared_error(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Mean squared difference.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).

    Returns:
        Scalar: mean over batch and classes.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    return jnp.mean(jnp.square(student - teacher))


class Logits(Distiller):
    """Class scores before the softmax, mean squared error.

    Paper: Ba, Caruana, NIPS 2014, arXiv:1312.6184
    """

    weight: float = not_negative(0.1)

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss = self.weight * squared_error(student.logits, teacher.logits)
        return loss, {"Logits": loss}
