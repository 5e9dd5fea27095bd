"""SKD: softened class probabilities, and the angles between the images' logits under a Mahalanobis distance.

    loss = weight * (mean_b KL(t_b || s_b) + direction_weight * mean_b sqrt(d_b' S^-1 d_b)),   t, s = softmax(z / T)
    D = U_s U_s' - U_t U_t' [B, B],   U = rows of logits over their L2 norm,   d_b = row b of D
    S = covariance of the columns of D over its rows + damping * I

Paper: Streamlined Knowledge Distillation. CVPR 2026 (not on arXiv).

The angles do not depend on how sure a network is of an image. The gradient also goes through S. T^2 is not in. The
weights of this loss and of the cross-entropy (0.9 and 0.1) are the released code's. The code's last version also
divides D by the number of classes, and multiplies the averaged losses by the share of images or classes that its masks
keep. The paper's formula has neither, and neither is done here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.normalised import unit
from distiller.soft_logits import kl_divergence
from options import not_negative, positive


def direction_loss(student_logits: jax.Array, teacher_logits: jax.Array, damping: float = 0.1) -> jax.Array:
    """Mahalanobis norm of the difference of the images' cosines.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        damping: added to the covariance's diagonal, above 0.

    Returns:
        Scalar: mean over the batch; 0, with a zero gradient, where no cosine differs.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = (unit(z) for z in matched(student_logits, teacher_logits))
    difference = student @ student.T - teacher @ teacher.T
    size = difference.shape[0]
    centred = difference - jnp.mean(difference, axis=0)
    identity = jnp.eye(size, dtype=difference.dtype)
    covariance = centred.T @ centred / max(size - 1, 1) + damping * identity
    whitened = jax.scipy.linalg.solve(covariance, difference.T, assume_a="pos").T
    squares = jnp.sum(difference * whitened, axis=1)
    alive = squares > 0
    return jnp.mean(jnp.where(alive, jnp.sqrt(jnp.where(alive, squares, 1.0)), 0.0))


class SKD(Distiller):
    """Softened class probabilities, and the cosines between the images' logits.

    Paper: Streamlined Knowledge Distillation, CVPR 2026

    Attributes:
        direction_weight: weight of the cosines.
        damping: added to the diagonal of S.
        temperature: T, dimensionless.
    """

    weight: float = not_negative(0.9)
    ce_weight: float = not_negative(0.1)
    direction_weight: float = not_negative(1.0)
    damping: float = positive(0.1)
    temperature: float = positive(4.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        instance = kl_divergence(student.logits, teacher.logits, self.temperature) / self.temperature**2
        direction = direction_loss(student.logits, teacher.logits, self.damping)
        terms = {
            "SKD_instance": self.weight * instance,
            "SKD_direction": self.weight * self.direction_weight * direction,
        }
        return sum(terms.values()), terms
