"""SP: the similarity of the batch's examples in the last stage.

    G = F F^T with F [B, HWC],   G~ = rows of G over their L2 norm
    loss = weight * sum_ij (G~^s_ij - G~^t_ij)^2 / B^2

Paper: Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019. arXiv:1907.09682.

As in the benchmarks, the last stage alone is compared, with weight 3000. Only B x B matrices are compared, so
resolutions, channels and tokens may differ.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.normalised import flat, unit
from distiller.spatial import LAST, paired_stages, stage_pairs
from options import not_negative


def similarity(feature: jax.Array) -> jax.Array:
    """[B, ...], any float type -> [B, B] float32 (float64 stays), rows of unit length; a zero row stays zero."""
    feature = flat(feature)
    return unit(feature @ feature.T)


def similarity_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared difference of the similarities of [B, ...] and [B, ...]. Scalar: mean over the B^2 pairs."""
    return jnp.mean(jnp.square(similarity(student) - similarity(teacher)))


class SP(Distiller):
    """Similarities of the batch's examples in the last stage, squared difference.

    Paper: Tung, Mori, ICCV 2019, arXiv:1907.09682

    Attributes:
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(3000.0)
    stages: str = paired_stages(LAST)
    least_batch: ClassVar[int] = 2

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        loss = self.weight * sum(similarity_loss(s, t) for s, t in pairs)
        return loss, {"SP": loss}
