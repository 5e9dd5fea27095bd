"""NormKD: softened class probabilities; each image has its own temperature, the spread of its logits.

    loss = weight * mean_b T_t^2 KL(t_b || s_b),   t = softmax(z_t / T_t), s = softmax(z_s / T_s)
    T_t = temperature * std(z_t), T_s = temperature * std(z_s), over the classes of the image

Paper: Chi, Zheng, Li, Yang, Wu, Lin, Cai. NormKD: Normalized Logits for Knowledge Distillation. 2023. arXiv:2308.00520.

The deviations are unbiased. T_s is differentiated, as in the authors' code. An image whose teacher logits are all equal
has T_t = 0 and adds nothing to the loss. The weights of this loss and of the cross-entropy are those of SoftLogits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import deviation, standardize
from distiller.target import refuse_two_classes
from options import not_negative, positive


def normalised_divergence(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 2.0) -> jax.Array:
    """KL(teacher || student) times T_t^2. An image's temperatures are `temperature` standard deviations of its logits.

    Args:
        student_logits, teacher_logits: [B, K], K at least 3, any float type; computed in float32 (float64 stays).
        temperature: in standard deviations, above 0.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ, or fewer than 3 classes.
    """
    student, teacher = matched(student_logits, teacher_logits)
    refuse_two_classes("NormKD", student, "for two standardised logits the")
    s, t = (jax.nn.log_softmax(standardize(z) / temperature) for z in (student, teacher))
    squares = jnp.square(temperature * deviation(teacher))
    return jnp.mean(squares * jnp.sum(jnp.exp(t) * (t - s), axis=1, keepdims=True))


class NormKD(Distiller):
    """Softened class probabilities; each image has its own temperature, the spread of its logits.

    Paper: Chi, Zheng, Li, Yang, Wu, Lin, Cai, 2023, arXiv:2308.00520

    Attributes:
        temperature: in standard deviations of the image's logits.
    """

    weight: float = not_negative(0.9)
    ce_weight: float = not_negative(0.1)
    temperature: float = positive(2.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss = self.weight * normalised_divergence(student.logits, teacher.logits, self.temperature)
        return loss, {"NormKD": loss}
