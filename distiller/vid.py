"""VID: a lower bound of the mutual information between the student's and the teacher's stages.

    loss = weight * sum_stages mean_{b,h,w,c} ((mu(f_s)_c - f_tc)^2 / v_c + log v_c) / 2,   v = softplus(a) + 1e-5

This is the negative log-likelihood of a Gaussian, without its constant. The log-likelihood is a lower bound of the
information, up to a constant.

Paper: Ahn, Hu, Damianou, Lawrence, Dai. Variational Information Distillation for Knowledge Transfer. CVPR 2019.
arXiv:1904.05835, equations 5 and 6.

mu is three 1x1 convolutions without bias, as wide as the teacher, with ReLUs between. The variance v, one number per
channel, starts at 5 and is learned, as in RepDistiller (in mdistiller the variance is no parameter and stays constant).
The larger map is average-pooled to the smaller. The loss can be negative.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.spatial import match_resolution, paired_stages, stage_pairs
from models.layers import Conv

INITIAL_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


def gaussian_nll(mean: jax.Array, target: jax.Array, variance: jax.Array) -> jax.Array:
    """Negative log-likelihood of a Gaussian without its constant log(2 pi) / 2.

    Args:
        mean, target: [B, H, W, C].
        variance: [C], above 0.

    Returns:
        Scalar: mean over all entries.

    Raises:
        ValueError: shapes differ.
    """
    mean, target = matched(mean, target)
    return 0.5 * jnp.mean(jnp.square(mean - target) / variance + jnp.log(variance))


class Gaussian(nn.Module):
    """q(teacher's map | student's): [B, H, W, C] -> (mean [B, H, W, channels], variance [channels])."""

    channels: int

    @nn.compact
    def __call__(self, x):
        start = math.log(math.expm1(INITIAL_VARIANCE - LEAST_VARIANCE))
        raw = self.param("raw_variance", nn.initializers.constant(start), (self.channels,), jnp.float32)
        for layer in range(3):
            x = Conv(self.channels, 1, dtype=x.dtype)(nn.relu(x) if layer else x)
        return x, (nn.softplus(raw) + LEAST_VARIANCE).astype(x.dtype)


class VID(Distiller):
    """Mutual information between stages, bounded by a learned Gaussian that predicts the teacher's features.

    Paper: Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, arXiv:1904.05835

    Attributes:
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for s, t in stage_pairs(student.features, teacher.features, self.stages):
            s, t = match_resolution(wide(s), wide(t))
            mean, variance = Gaussian(t.shape[-1])(s)
            total = total + gaussian_nll(mean, t, variance)
        loss = self.weight * total
        return loss, {"VID": loss}
