"""WKDFeature: mean and deviation of each channel of the teacher's last stage, by the Wasserstein distance.

    In each of grid x grid cells every channel is a Gaussian with mean m and deviation d over the positions; then
    loss = weight * mean over cells and batch of sum_c (ratio * (m^s_c - m^t_c)^2 + (d^s_c - d^t_c)^2)

Paper: Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation. NeurIPS 2024.
arXiv:2412.08139 (its WKD-F).

As in the authors' code, the Gaussians have a diagonal covariance. The deviation is sqrt(variance + 1e-5); the variance
is divided by n - 1 (a cell of one position has variance 0). The student's map first goes through a 1x1 convolution,
batch norm and ReLU. The ReLU is for teachers whose stage ends in a ReLU; `relu=False` leaves it out for other teachers.
Published weights lie between 0.08 and 0.3, ratios between 3 and 4. The authors also lower the weight to zero by a
cosine over the last epochs; this is left out here. Every map is cut into the same number of cells, so resolutions may
differ.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.spatial import as_map, one_pair, stage_pairs
from options import not_negative, positive


def cell_statistics(feature: jax.Array, grid: int = 1, epsilon: float = 1e-5) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of each channel in each cell.

    Args:
        feature: [B, H, W, C], any float type; computed in float32 (float64 stays).
        grid: cells along height and width; cell i takes positions floor(i H / grid) up to ceil((i + 1) H / grid).
        epsilon: added to the variance.

    Returns:
        [B, grid^2, C] twice.
    """
    feature = wide(feature)

    def spans(size):
        return [slice(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid)]

    means, deviations = [], []
    for rows in spans(feature.shape[1]):
        for columns in spans(feature.shape[2]):
            cell = feature[:, rows, columns]
            mean = jnp.mean(cell, axis=(1, 2), keepdims=True)
            freedom = max(cell.shape[1] * cell.shape[2] - 1, 1)
            variance = jnp.sum(jnp.square(cell - mean), axis=(1, 2)) / freedom
            means.append(mean[:, 0, 0])
            deviations.append(jnp.sqrt(variance + epsilon))
    return jnp.stack(means, axis=1), jnp.stack(deviations, axis=1)


def wasserstein_terms(student: jax.Array, teacher: jax.Array, grid: int = 1) -> tuple[jax.Array, jax.Array]:
    """Squared differences of the means and of the deviations of [B, H, W, C] and [B, H', W', C].

    Returns:
        Two scalars: sum over channels, mean over cells and batch.

    Raises:
        ValueError: the numbers of channels or rows differ.
    """
    pairs = zip(cell_statistics(student, grid), cell_statistics(teacher, grid), strict=True)
    mean, deviation = (jnp.mean(jnp.sum(jnp.square(jnp.subtract(*matched(s, t))), axis=-1)) for s, t in pairs)
    return mean, deviation


class WKDFeature(Distiller):
    """Means and deviations of the last stage's channels, squared Wasserstein distance of Gaussians.

    Paper: Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139

    Attributes:
        ratio: weight of the means relative to the deviations.
        grid: cells along each side of the map.
        relu: the student's projection ends in a ReLU.
        stages: the pair "STUDENT:TEACHER" of stages (spatial.py).
    """

    weight: float = not_negative(0.08)
    ratio: float = not_negative(4.0)
    grid: int = positive(1)
    relu: bool = True
    stages: str = one_pair()

    @nn.compact
    def __call__(self, student, teacher, batch):
        ((s, t),) = stage_pairs(student.features, teacher.features, self.stages)
        s, t = as_map(wide(s)), as_map(wide(t))
        s = ConvNorm(t.shape[-1], name="projector")(s)
        mean, deviation = wasserstein_terms(nn.relu(s) if self.relu else s, t, self.grid)
        terms = {
            "WKDFeature_mean": self.weight * self.ratio * mean,
            "WKDFeature_deviation": self.weight * deviation,
        }
        return sum(terms.values()), terms
