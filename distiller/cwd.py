"""CWD: where in the image each of the teacher's channels is active, as a distribution over positions.

    loss = weight * sum_pairs T^2 * mean_bc KL(p(f_t)_bc || p(f_s)_bc),   p(f)_bc = softmax over positions of f_bc / T

Paper: Shu, Liu, Gao, Yan, Shen. Channel-wise Knowledge Distillation for Dense Prediction. ICCV 2021. arXiv:2011.13256.

The paper distils segmentation networks: weight 50 on feature maps, T = 4. Here the maps are the stages' outputs, the
last stage by default. If the channels differ, a learned 1x1 convolution brings the student's to the teacher's number,
as in the paper. The larger of two maps is average-pooled to the smaller. A map of one position raises an error: its
distribution is constant.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import to_channels
from distiller.spatial import LAST, match_resolution, paired_stages, stage_pairs
from options import not_negative, positive


def channel_divergence(student: jax.Array, teacher: jax.Array, temperature: float = 4.0) -> jax.Array:
    """KL(teacher || student) of the channels' distributions over positions, times T^2.

    Args:
        student, teacher: [B, H, W, C], any float type; computed in float32 (float64 stays).
        temperature: dimensionless, above 0.

    Returns:
        Scalar: sum over positions, mean over channels and batch. Natural log.

    Raises:
        ValueError: shapes differ, or the maps have one position.
    """
    student, teacher = matched(student, teacher)
    if student.shape[1] * student.shape[2] < 2:
        raise ValueError(
            f"CWD compares distributions over positions, and a map of {teacher.shape} has one position.\n"
            "Choose an earlier stage by the option stages, such as stages='1:1'."
        )
    maps = (x.reshape(x.shape[0], -1, x.shape[3]) / temperature for x in (student, teacher))
    s, t = (jax.nn.log_softmax(x, axis=1) for x in maps)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(t) * (t - s), axis=1))


class CWD(Distiller):
    """Distribution of each channel over the positions, KL(teacher || student) * T^2.

    Paper: Shu, Liu, Gao, Yan, Shen, ICCV 2021, arXiv:2011.13256

    Attributes:
        temperature: T, dimensionless.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(50.0)
    temperature: float = positive(4.0)
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for s, t in stage_pairs(student.features, teacher.features, self.stages):
            s, t = match_resolution(wide(s), wide(t))
            total = total + channel_divergence(to_channels(s, t.shape[-1]), t, self.temperature)
        loss = self.weight * total
        return loss, {"CWD": loss}
