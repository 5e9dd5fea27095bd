"""SemCKD: each of the student's stages learns from all of the teacher's, with a learned attention for each image.

    loss = weight * mean_b mean_i sum_j a_bij mean_hwc (r_ij(f_i) - f_j)^2,   i a stage of the student, j of the teacher
    a_bi. = softmax_j <q_i(row b of F_i F_i'), k_j(row b of F_j F_j')>,   F [B, HWC] the stage's map

Paper: Chen, Mei, Zhang, Wang, Wang, Feng, Chen. Cross-Layer Distillation with Semantic Calibration. AAAI 2021.
arXiv:2012.03236.

The form is the authors' code. q and k are perceptrons with one hidden layer and B / 4 outputs (at least 2) of unit
length. r is conv1x1, conv3x3, conv1x1, with batch norm and ReLU between them and 2 C_t channels inside. The larger of
two maps is average-pooled to the smaller. The weight is 400. q and k read rows of B x B matrices. So their parameters
fit one batch size only, and the loss depends on the order of the batch. The batch norm uses the batch's own statistics.
The authors add KD: `SoftLogits+SemCKD`, with weight 1 for the cross-entropy and for KD.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.normalised import Linear, flat, unit
from distiller.spatial import as_map, match_resolution
from models import stages
from models.layers import Conv
from options import not_negative


class Embedding(nn.Module):
    """Similarities [B, B] -> [B, max(B // 4, 2)], rows of unit length."""

    @nn.compact
    def __call__(self, x):
        width = max(x.shape[-1] // 4, 2)
        return unit(Linear(width, name="last")(nn.relu(Linear(2 * width, name="hidden")(x))))


class Regressor(nn.Module):
    """[B, H, W, C] -> [B, H, W, channels] by three convolutions."""

    channels: int

    @nn.compact
    def __call__(self, x):
        for i, size in enumerate((1, 3), start=1):
            x = nn.relu(ConvNorm(2 * self.channels, size, name=f"conv{i}")(x))
        return Conv(self.channels, 1, dtype=x.dtype, name="conv3")(x)


class SemCKD(Distiller):
    """Each of the student's stages learns from all of the teacher's, weighted by a learned attention.

    Paper: Chen, Mei, Zhang, Wang, Wang, Feng, Chen, AAAI 2021, arXiv:2012.03236
    """

    weight: float = not_negative(400.0)
    order_matters: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        both = {"student": stages(student.features), "teacher": stages(teacher.features)}
        for who, outputs in (("student", student), ("teacher", teacher)):
            if not both[who]:
                raise ValueError(
                    f"The {who} has no taps stage1 ...; it has {sorted(outputs.features) or 'logits only'}."
                )
        maps = {who: [as_map(wide(x)) for x in found] for who, found in both.items()}
        embedded = {
            who: [Embedding(name=f"{who}{i}")(flat(x) @ flat(x).T) for i, x in enumerate(found, start=1)]
            for who, found in maps.items()
        }
        queries, keys = (jnp.stack(embedded[who], axis=1) for who in ("student", "teacher"))
        attention = jax.nn.softmax(jnp.einsum("bid,bjd->bij", queries, keys))
        total = 0.0
        for i, own in enumerate(maps["student"]):
            for j, its in enumerate(maps["teacher"]):
                s, t = match_resolution(own, its)
                s, t = matched(Regressor(t.shape[-1], name=f"regressor{i + 1}_{j + 1}")(s), t)
                total = total + jnp.mean(attention[:, i, j] * jnp.mean(jnp.square(s - t), axis=(1, 2, 3)))
        loss = self.weight * total / len(maps["student"])
        return loss, {"SemCKD": loss}
