"""PKD: the teacher's map up to the scale and offset of each channel, by Pearson's correlation.

    loss = weight * sum_pairs mean (n(f_s) - n(f_t))^2 / 2
    n(f) = (f - mean) / (std + 1e-6) of each channel over batch and positions, std unbiased

Paper: Cao, Zhang, Gao, Cheng, Cheng, Zhang. PKD: General Distillation Framework for Object Detectors via Pearson
Correlation Coefficient. NeurIPS 2022. arXiv:2207.02039.

The loss is 1 - the channels' mean correlation, apart from the unbiased deviation. The paper distils the levels of a
detector's pyramid with weight 6; here the maps are the stages' outputs, the last stage by default. Where resolutions
differ, one network's map is resized bilinearly, without antialiasing: the student's, or with `resize="teacher"` the
teacher's. If the channels differ, a learned 1x1 convolution brings the student's to the teacher's number.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import to_channels
from distiller.spatial import LAST, as_map, paired_stages, stage_pairs
from options import not_negative, one_of


def standardised(x: jax.Array) -> jax.Array:
    """Scales each channel of [B, H, W, C] to mean 0 and deviation 1; a constant channel becomes 0 (finite gradient)."""
    axes = (0, 1, 2)
    centred = x - jnp.mean(x, axes)
    variance = jnp.sum(jnp.square(centred), axes) / max(x.size // x.shape[3] - 1, 1)
    alive = variance > 0
    return centred / (jnp.where(alive, jnp.sqrt(jnp.where(alive, variance, 1.0)), 0.0) + 1e-6)


def correlation_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Half the mean squared error of two standardised maps.

    Args:
        student, teacher: [B, H, W, C], any float type; computed in float32 (float64 stays).

    Returns:
        Scalar: mean over all entries, in [0, 2].

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    # Each channel is averaged first: one float32 sum over all entries may lose the fifth digit.
    by_channel = jnp.mean(jnp.square(standardised(student) - standardised(teacher)), axis=(0, 1, 2))
    return jnp.mean(by_channel) / 2


def resized(x: jax.Array, like: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, H, W, C] with the resolution of `like`: bilinear, half-pixel centres, no antialiasing."""
    if x.shape[1:3] == like.shape[1:3]:
        return x
    return jax.image.resize(x, (x.shape[0], *like.shape[1:3], x.shape[3]), "linear", antialias=False)


class PKD(Distiller):
    """Maps up to the scale and offset of each channel: one minus Pearson's correlation.

    Paper: Cao, Zhang, Gao, Cheng, Cheng, Zhang, NeurIPS 2022, arXiv:2207.02039

    Attributes:
        resize: the network whose map is resized to the other's resolution, "student" or "teacher".
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(6.0)
    resize: str = one_of("student", "teacher")
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for s, t in stage_pairs(student.features, teacher.features, self.stages):
            s, t = as_map(wide(s)), as_map(wide(t))
            s, t = (resized(s, t), t) if self.resize == "student" else (s, resized(t, s))
            total = total + correlation_loss(to_channels(s, t.shape[-1]), t)
        loss = self.weight * total
        return loss, {"PKD": loss}
