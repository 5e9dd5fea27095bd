"""OFD: the teacher's stages before their ReLU, without the entries that the ReLU removes from both networks.

    loss = weight * sum_i 2^(i - n) * mean_b sum_{h,w,c} d(r_i, max(t_i, m_i)),   d(s, t) = (s - t)^2 [s > t or t > 0]

for the stages i = 1 ... n; r = BN(conv1x1(student's stage)); m_ic = E[t | t < 0] is the margin, the teacher's mean
negative response in channel c.

Paper: Heo, Kim, Yun, Park, Kwak, Choi. A Comprehensive Overhaul of Feature Distillation. ICCV 2019. arXiv:1904.01866,
equations 2 to 4.

The paper offers two estimates of the margin: the mean of the responses while training, or the mean of a Gaussian with
scale and bias of the teacher's batch norm before the ReLU. The paper's code and the benchmarks use the second. Some
teachers have no batch norm there, so the first is used here: a running mean in `memory` (decay 0.99 per step; a channel
that was never negative has margin 0). The Gaussian also ignores the shortcut that a residual block adds before the
ReLU. On the shipped digits network the two margins differ by 10 to 13 % on average.

The larger of two maps is average-pooled to the smaller; the benchmarks pool the teacher's. Weight 1e-3 is for CIFAR,
1e-4 for ImageNet. Networks without taps before the ReLU (ViT) raise an error.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import BatchNorm
from distiller.spatial import match_resolution, paired_stages, stage_pairs
from models.layers import Conv
from options import not_negative

MOMENTUM = 0.99


def partial_l2(student: jax.Array, teacher: jax.Array, margin: jax.Array) -> jax.Array:
    """Squared distance, without the entries that the ReLU removes from both networks.

    Args:
        student: [B, H, W, C], after the connector.
        teacher: [B, H, W, C], before the ReLU.
        margin: [C], not above 0: the lowest value that the student must reach.

    Returns:
        Scalar: sum over positions and channels, mean over the batch.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    teacher = jnp.maximum(teacher, margin)
    counts = (student > teacher) | (teacher > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - teacher), 0.0)) / student.shape[0]


def negative_part(feature: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [2, C] float32: mean of min(feature, 0), and the share of entries below 0."""
    feature = wide(feature)
    below = feature < 0
    return jnp.stack([jnp.mean(jnp.where(below, x, 0.0), axis=(0, 1, 2)) for x in (feature, jnp.ones_like(feature))])


def margin_of(negative: jax.Array) -> jax.Array:
    """`negative_part` (or a running mean of it) -> E[x | x < 0] [C]; 0 in a channel without entries below 0."""
    return negative[0] / jnp.maximum(negative[1], 1e-12)


class OFD(Distiller):
    """Stages before their ReLU: squared distance, without the entries that the ReLU removes from both networks.

    Paper: Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019, arXiv:1904.01866

    Attributes:
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    weight: float = not_negative(1e-3)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages, "_preact")
        total = 0.0
        for i, (s, t) in enumerate(pairs):
            found = jax.lax.stop_gradient(negative_part(t))
            kept = self.variable("memory", f"negative{i + 1}", jnp.zeros, found.shape, found.dtype)
            # Mean and share decay together. So their ratio is a correct mean from the first step on.
            negative = MOMENTUM * kept.value + (1 - MOMENTUM) * found
            if self.is_mutable_collection("memory") and not self.is_initializing():
                kept.value = negative
            s, t = match_resolution(wide(s), wide(t))
            s = BatchNorm()(Conv(t.shape[-1], 1, dtype=s.dtype)(s))
            total = total + partial_l2(s, t, margin_of(negative)) * 2.0 ** (i + 1 - len(pairs))
        loss = self.weight * total
        return loss, {"OFD": loss}
