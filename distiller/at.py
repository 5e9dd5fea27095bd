"""AT: attention maps: the positions at which the teacher's stages are active, averaged over the channels.

    a(f) = vec(mean_c |f_c|^p) / ||.||_2,   loss = weight * sum_stages mean_{b,hw} (a(f_s) - a(f_t))^2

Paper: Zagoruyko, Komodakis. Paying More Attention to Attention: Improving the Performance of Convolutional Neural
Networks via Attention Transfer. ICLR 2017. arXiv:1612.03928, section 3.1.

The paper sums the norms ||a_s - a_t||_2 with weight beta / 2. The mean of squares and the weight of 1000 are those of
the paper's released code and of the benchmarks. The larger of two maps is average-pooled to the smaller, as in the
benchmarks. Stages are paired by `stage_pairs`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.normalised import flat, unit
from distiller.spatial import match_resolution, paired_stages, stage_pairs
from options import not_negative, positive


def attention_map(feature: jax.Array, p: int = 2) -> jax.Array:
    """Spatial attention of a feature map.

    Args:
        feature: [B, H, W, C], any float type; computed in float32 (float64 stays).
        p: power of the absolute activations, at least 1.

    Returns:
        [B, H * W], unit L2 norm (zero where the feature is zero, with a finite gradient).
    """
    feature = wide(feature)
    return unit(flat(jnp.mean(jnp.abs(feature) ** p, axis=-1)))


def attention_loss(student: jax.Array, teacher: jax.Array, p: int = 2) -> jax.Array:
    """Squared difference of two feature maps' attention.

    Args:
        student: [B, H, W, C], after the activation.
        teacher: [B, H', W', C'], after the activation.
        p: power of the absolute activations.

    Returns:
        Scalar: mean over batch and the positions of the smaller map.
    """
    student, teacher = match_resolution(student, teacher)
    return jnp.mean(jnp.square(attention_map(student, p) - attention_map(teacher, p)))


class AT(Distiller):
    """Attention maps: where each stage is active, averaged over the channels.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928

    Attributes:
        p: power of the absolute activations.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    weight: float = not_negative(1000.0)
    p: int = positive(2)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        loss = self.weight * sum(attention_loss(s, t, self.p) for s, t in pairs)
        return loss, {"AT": loss}
