"""NORM: each of N parts of the student's expanded map is matched to the teacher's map.

    loss = weight * sum_pairs N * mean (e_n - f_t)^2 over the N parts,   e = BN(conv1x1(f_s)) with N C_t channels

Paper: Liu, Li, Li, Yao. NORM: Knowledge Distillation via N-to-One Representation Matching. ICLR 2023. arXiv:2305.13803.

Part n has the channels n C_t up to (n + 1) C_t. N is 8 and the weight 1 in the authors' script, beside a cross-entropy
of weight 1/16 to 1/2, which depends on the pair (here 1/4). The larger of two maps is average-pooled to the smaller;
the authors max-pool.

Deviation: in the paper the expansion is a part of the student, and a second linear layer leads from the expanded map
back to the student's own classifier. Both are linear and are merged into one layer after the training. Here the
expansion is a connector, so the student's classifier reads the student's own map.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.spatial import LAST, match_resolution, paired_stages, stage_pairs
from options import not_negative, positive


def many_to_one_loss(expanded: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared error of each part of a map to the teacher's, times the number of parts.

    Args:
        expanded: [B, H, W, N * C], any float type; computed in float32 (float64 stays).
        teacher: [B, H, W, C].

    Returns:
        Scalar: mean over batch, positions and channels, sum over the N parts.

    Raises:
        ValueError: the expanded channels are no multiple of C, or the other sizes differ.
    """
    parts = expanded.shape[-1] // teacher.shape[-1]
    expanded, teacher = matched(expanded, jnp.tile(teacher, parts))
    return parts * jnp.mean(jnp.square(expanded - teacher))


class NORM(Distiller):
    """Maps of the teacher, each matched by N parts of the student's expanded map.

    Paper: Liu, Li, Li, Yao, ICLR 2023, arXiv:2305.13803

    Attributes:
        parts: N.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    ce_weight: float = not_negative(0.25)
    parts: int = positive(8)
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for i, (s, t) in enumerate(stage_pairs(student.features, teacher.features, self.stages), start=1):
            s, t = match_resolution(wide(s), wide(t))
            total = total + many_to_one_loss(ConvNorm(self.parts * t.shape[-1], name=f"expand{i}")(s), t)
        loss = self.weight * total
        return loss, {"NORM": loss}
