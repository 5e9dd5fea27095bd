"""ICKD: the similarity of the channels of one image's map.

    loss = weight * sum_pairs mean_b sum_ij (g(e(f_s))_ij - g(f_t)_ij)^2 / C
    g(f) = rows of F F' over their L2 norm, F [C, HW] the image's map;   e = BN(conv1x1(.)) to the teacher's C channels

Paper: Liu, Huang, Lin, Xie, Wang, Chang, Liang. Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
Distillation. ICCV 2021. arXiv:2202.03680.

Form and weight are those of the authors' CIFAR-100 code: the last stage, weight 2.5. Their ImageNet code divides by B
once more and has no embedding where the channels are equal. The batch norm uses the batch's own statistics. Only C x C
matrices are compared, so resolutions may differ.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.normalised import unit
from distiller.spatial import LAST, as_map, paired_stages, stage_pairs
from options import not_negative


def channel_similarity(feature: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C, C]; rows of unit length; the row of a zero channel is zero."""
    flat = feature.reshape(feature.shape[0], -1, feature.shape[-1])
    return unit(jnp.einsum("bni,bnj->bij", flat, flat))


def channel_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared difference of the channels' similarities.

    Args:
        student: [B, H, W, C], any float type; computed in float32 (float64 stays).
        teacher: [B, H', W', C].

    Returns:
        Scalar: sum over pairs of channels, divided by C, mean over the batch.

    Raises:
        ValueError: numbers of channels or rows differ.
    """
    student, teacher = matched(*(channel_similarity(wide(x)) for x in (student, teacher)))
    return jnp.sum(jnp.square(student - teacher)) / (teacher.shape[0] * teacher.shape[1])


class ICKD(Distiller):
    """Similarities of the channels of one image's map, squared difference.

    Paper: Liu, Huang, Lin, Xie, Wang, Chang, Liang, ICCV 2021, arXiv:2202.03680

    Attributes:
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(2.5)
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for i, (s, t) in enumerate(stage_pairs(student.features, teacher.features, self.stages), start=1):
            s, t = as_map(wide(s)), as_map(wide(t))
            total = total + channel_loss(ConvNorm(t.shape[-1], name=f"embed{i}")(s), t)
        loss = self.weight * total
        return loss, {"ICKD": loss}
