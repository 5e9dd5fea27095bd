"""DIST: correlations of the class probabilities: within each image over the classes, within each class over the images.

    loss = weight * T^2 * (beta * mean_b (1 - r(s_b., t_b.)) + gamma * mean_k (1 - r(s_.k, t_.k)))
    r: Pearson's correlation,   t, s = softmax(z / T), [B, K]

Paper: Huang, You, Wang, Qian, Xu. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022. arXiv:2205.10536.

Weight 2 with beta = gamma = 1 is the paper's loss with both weights 2. Temperature 4 is for CIFAR-100, 1 for ImageNet.
As in the released code, 1e-8 is added to the product of the two norms in r: a class that has the same probability in
all images counts as uncorrelated. The loss of a student that equals the teacher is therefore near 0, not exactly 0.
The value of the second term depends on the batch size. With two classes each image's correlation is 1 or -1, so only
the second term has a gradient.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from options import not_negative, positive


def pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Correlation of the rows.

    Args:
        a, b: [N, M] float.

    Returns:
        [N] in [-1, 1]; 0, with a finite gradient, where a row is constant.
    """
    a, b = (x - jnp.mean(x, axis=1, keepdims=True) for x in (a, b))
    norms = [jnp.sqrt(jnp.sum(jnp.square(x), axis=1) + 1e-24) for x in (a, b)]
    return jnp.sum(a * b, axis=1) / (norms[0] * norms[1] + 1e-8)


def relation_losses(
    student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Mean 1 - correlation, over images and over classes, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        temperature: dimensionless, above 0.

    Returns:
        (inter-class: mean over the batch, intra-class: mean over the classes), scalars in [0, 2 T^2].

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = (jax.nn.softmax(z / temperature) for z in matched(student_logits, teacher_logits))
    within_images = jnp.mean(1.0 - pearson(student, teacher))
    within_classes = jnp.mean(1.0 - pearson(student.T, teacher.T))
    return temperature**2 * within_images, temperature**2 * within_classes


class DIST(Distiller):
    """Correlation of predictions, within each image and within each class.

    Paper: Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv:2205.10536

    Attributes:
        beta: weight of the inter-class relation (rows).
        gamma: weight of the intra-class relation (columns).
        temperature: T, dimensionless.
    """

    weight: float = not_negative(2.0)
    beta: float = not_negative(1.0)
    gamma: float = not_negative(1.0)
    temperature: float = positive(4.0)
    least_batch: ClassVar[int] = 2

    @nn.compact
    def __call__(self, student, teacher, batch):
        inter, intra = relation_losses(student.logits, teacher.logits, self.temperature)
        terms = {"DIST_inter": self.weight * self.beta * inter, "DIST_intra": self.weight * self.gamma * intra}
        return sum(terms.values()), terms
