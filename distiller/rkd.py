"""RKD: the distances between the examples of the batch, and the angles in every triplet of examples.

    d_ij = ||f_i - f_j||_2 / mean over i != j,   a_ijk = cos(f_j - f_i, f_k - f_i),   h = Huber's loss with threshold 1
    loss = weight * (distance_weight * mean_ij h(d^s_ij - d^t_ij) + angle_weight * mean_ijk h(a^s_ijk - a^t_ijk))

Paper: Park, Kim, Lu, Cho. Relational Knowledge Distillation. CVPR 2019. arXiv:1904.05068.

The paper sums over pairs and triplets. The means over all B^2 and B^3 entries (those of an example with itself are
zero) and the weights 25 and 50 are those of the paper's classification experiments and of the benchmarks. A distance
below 1e-6 counts as 1e-6. The direction between equal examples is zero. Neither has a gradient. The features are the
embeddings; their widths may differ. Differences take B^2 D numbers, angles B^3.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.normalised import embedding, flat, off_diagonal, unit
from options import not_negative


def relations(feature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Relative distances and angles in a batch.

    Args:
        feature: [B, ...], any float type; computed in float32 (float64 stays).

    Returns:
        [B, B], zero on the diagonal, elsewhere of mean 1; and [B, B, B], the cosine at the first of three examples.
    """
    feature = flat(feature)
    difference = feature[None] - feature[:, None]
    square = jnp.maximum(jnp.sum(jnp.square(difference), axis=-1), 1e-12)
    pairs = off_diagonal(feature.shape[0])
    distance = jnp.where(pairs, jnp.sqrt(square), 0)
    direction = unit(difference)
    distance = distance * (max(int(pairs.sum()), 1) / jnp.maximum(jnp.sum(distance), 1e-12))
    return distance, jnp.einsum("ijd,ikd->ijk", direction, direction)


def huber(difference: jax.Array) -> jax.Array:
    """Mean of x^2 / 2 where |x| < 1, else |x| - 1/2."""
    size = jnp.abs(difference)
    return jnp.mean(jnp.where(size < 1, jnp.square(size) / 2, size - 0.5))


def relational_loss(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Losses of the distances and of the angles in [B, D] and [B, D']. Two scalars: means over B^2 and B^3 entries."""
    (distance_s, angle_s), (distance_t, angle_t) = relations(student), relations(teacher)
    return huber(distance_s - distance_t), huber(angle_s - angle_t)


class RKD(Distiller):
    """Distances between the batch's examples and angles between any three, Huber's loss.

    Paper: Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068

    Attributes:
        distance_weight, angle_weight: weights of the two terms.
    """

    distance_weight: float = not_negative(25.0)
    angle_weight: float = not_negative(50.0)
    least_batch: ClassVar[int] = 3

    @nn.compact
    def __call__(self, student, teacher, batch):
        distance, angle = relational_loss(embedding(student, "student"), embedding(teacher, "teacher"))
        terms = {
            "RKD_distance": self.weight * self.distance_weight * distance,
            "RKD_angle": self.weight * self.angle_weight * angle,
        }
        return sum(terms.values()), terms
