"""AFD: each channel's normalised map in the teacher's stages, weighted by a learned attention to the channels.

    n(f)_c = f_c / ||f_c||_2 over positions,   r = sigmoid(W2 relu(W1 mean_hw f_t)) / sum over channels of it
    loss = weight * mean over stages of mean_b sum_c r_bc mean_hw (n(f_s)_c - n(f_t)_c)^2

Paper: Wang, Gao, Zhao, Li, Dou, Xu. Pay Attention to Features, Transfer Learn Faster CNNs. ICLR 2020. OpenReview
ryxyCeHtPB (not on arXiv).

The form is Knowledge-Distillation-Zoo's, with weight 500: its authors found the paper's attention unstable and
replaced the attention by a squeeze-and-excitation block. A channel whose norm is at most 1e-6 counts as zero. In the
paper teacher and student are one network on two tasks, so their channels are equal. If the channels differ here, a
learned 1x1 convolution brings the student's to the teacher's number. The larger of two maps is average-pooled to the
smaller. Stages are paired by `stage_pairs`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.normalised import unit
from distiller.spatial import match_resolution, paired_stages, stage_pairs
from models.layers import Conv, default_uniform
from options import not_negative, positive

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def attended_loss(student: jax.Array, teacher: jax.Array, attention: jax.Array) -> jax.Array:
    """Squared difference of the channels' normalised maps, weighted by channel.

    Args:
        student, teacher: [B, H, W, C], any float type; computed in float32 (float64 stays).
        attention: [B, C], rows sum to 1.

    Returns:
        Scalar: mean over batch and positions, weighted mean over channels.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    difference = unit(student, (1, 2), 1e-6) - unit(teacher, (1, 2), 1e-6)
    return jnp.mean(jnp.sum(attention * jnp.mean(jnp.square(difference), axis=(1, 2)), axis=1))


class Attention(nn.Module):
    """A squeeze-and-excitation block: [B, H, W, C] -> [B, C], rows sum to 1.

    Attributes:
        factor: channels of the hidden layer, divided by C.
    """

    factor: float

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, kernel_init=he_normal, dtype=x.dtype)
        middle = max(int(x.shape[-1] * self.factor), 1)
        hidden = nn.relu(dense(middle, name="squeeze")(jnp.mean(x, axis=(1, 2))))
        attention = nn.sigmoid(dense(x.shape[-1], name="excite")(hidden))
        return attention / jnp.sum(attention, axis=1, keepdims=True)


class AFD(Distiller):
    """Each channel's normalised map in every stage, weighted by a learned attention to the teacher's channels.

    Paper: Wang, Gao, Zhao, Li, Dou, Xu, ICLR 2020, OpenReview ryxyCeHtPB

    Attributes:
        attention_factor: width of the attention's hidden layer, divided by the teacher's channels.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    weight: float = not_negative(500.0)
    attention_factor: float = positive(1.0)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        losses = []
        for i, (s, t) in enumerate(stage_pairs(student.features, teacher.features, self.stages), start=1):
            s, t = match_resolution(wide(s), wide(t))
            if s.shape[-1] != t.shape[-1]:
                s = Conv(t.shape[-1], 1, kernel_init=default_uniform, dtype=s.dtype, name=f"connector{i}")(s)
            losses.append(attended_loss(s, t, Attention(self.attention_factor, name=f"attention{i}")(t)))
        loss = self.weight * sum(losses) / len(losses)
        return loss, {"AFD": loss}
