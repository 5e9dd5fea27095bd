"""DIST+: DIST on the class probabilities, and the same two relations of a stage's map.

    loss = weight * (T^2 * (beta * mean_b (1 - r(s_b., t_b.)) + gamma * mean_k (1 - r(s_.k, t_.k)))
                     + channel * mean_bhw (1 - r(f_s,bhw., f_t,bhw.)) + spatial * mean_hw (1 - r(a_s,.hw, a_t,.hw)))
    r: Pearson's correlation,   s, t = softmax(z / T),   f a stage's map [B, H, W, C],   a = sum_c f [B, H, W]

Paper: Huang, You, Wang, Qian, Xu. DIST+: Knowledge Distillation From a Stronger Adaptive Teacher. TPAMI 2025.
doi:10.1109/TPAMI.2025.3554235. DIST: arXiv:2205.10536 (distiller/dist.py).

The channel relation compares the channels at each position of each image. The spatial relation compares the images at
each position. Deviations:
- torchdistill adds r of the channels instead of 1 - r, so its training makes the channels' correlation small. Here the
  loss has 1 - r.
- If the channels differ, a learned 1x1 convolution brings the student's to the teacher's number for the channel
  relation. The spatial relation reads the student's map itself. The larger of two maps is average-pooled to the
  smaller.
- A vector whose norm after centring is at most 1e-8 counts as uncorrelated. distiller/dist.py adds 1e-8 to the product
  of the norms instead; the class columns are small, so the two differ in the fourth digit.
- The paper's other part, a teacher that adapts to the student, is not in this method.
- All four terms weigh the same by default; the paper's weights of the two terms on maps are not known here.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import to_channels
from distiller.normalised import unit
from distiller.spatial import LAST, match_resolution, paired_stages, stage_pairs
from options import not_negative, positive


def correlation(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Pearson's correlation along an axis.

    Args:
        a, b: arrays of one shape, float.
        axis: the axis that is compared; the result has the other axes.

    Returns:
        In [-1, 1]; 0, with a finite gradient, where `a` or `b` is constant along the axis.
    """
    a, b = (unit(x - jnp.mean(x, axis, keepdims=True), axis, 1e-8) for x in (a, b))
    return jnp.sum(a * b, axis)


def logit_losses(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> tuple:
    """(mean 1 - r within images, mean 1 - r within classes) of two logits [B, K], times T^2."""
    s, t = (jax.nn.softmax(z / temperature) for z in matched(student_logits, teacher_logits))
    return tuple(temperature**2 * jnp.mean(1 - correlation(s, t, axis)) for axis in (1, 0))


def channel_correlation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Correlation of the channels at each position of two maps [B, H, W, C], mean over images and positions.

    Raises:
        ValueError: shapes differ.
    """
    return jnp.mean(correlation(*matched(student, teacher), axis=3))


def spatial_correlation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Correlation of the images at each position, of the sums over the channels, mean over positions.

    Args:
        student: [B, H, W, C], any float type; computed in float32 (float64 stays).
        teacher: [B, H, W, C'].

    Raises:
        ValueError: batches or resolutions differ.
    """
    return jnp.mean(correlation(*matched(*(jnp.sum(wide(x), axis=3) for x in (student, teacher))), axis=0))


class DISTPlus(Distiller):
    """Correlation of predictions as in DIST, and of a stage's map within positions and within images.

    Paper: Huang, You, Wang, Qian, Xu, TPAMI 2025, doi:10.1109/TPAMI.2025.3554235

    Attributes:
        beta: weight of the relation of the classes in each image.
        gamma: weight of the relation of the images in each class.
        channel: weight of the relation of the channels at each position.
        spatial: weight of the relation of the images at each position.
        temperature: T of the class probabilities, dimensionless.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(2.0)
    beta: float = not_negative(1.0)
    gamma: float = not_negative(1.0)
    channel: float = not_negative(1.0)
    spatial: float = not_negative(1.0)
    temperature: float = positive(4.0)
    stages: str = paired_stages(LAST)
    least_batch: ClassVar[int] = 2

    @nn.compact
    def __call__(self, student, teacher, batch):
        inter, intra = logit_losses(student.logits, teacher.logits, self.temperature)
        channel = spatial = 0.0
        for s, t in stage_pairs(student.features, teacher.features, self.stages):
            s, t = match_resolution(wide(s), wide(t))
            channel = channel + 1 - channel_correlation(to_channels(s, t.shape[-1]), t)
            spatial = spatial + 1 - spatial_correlation(s, t)
        terms = {
            "DISTPlus_inter": self.weight * self.beta * inter,
            "DISTPlus_intra": self.weight * self.gamma * intra,
            "DISTPlus_channel": self.weight * self.channel * channel,
            "DISTPlus_spatial": self.weight * self.spatial * spatial,
        }
        return sum(terms.values()), terms
