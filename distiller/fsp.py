"""FSP: flow of solution procedure: products between the channels of two neighbouring stages.

    loss = weight * sum_i mean_{b,c,d} (G_s,i - G_t,i)^2,   G_i,cd = mean_hw f_i,c f_{i+1},d

for neighbouring stages i, i + 1 of one network. The larger map of the two is average-pooled to the smaller.

Paper: Yim, Joo, Bae, Kim. A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning. CVPR 2017 (no arXiv number).

The training has two phases, as in the paper: `warmup_epochs` on this loss alone, then cross-entropy alone (the loss is
0). Weight 50 and 30 epochs are the benchmarks'. In the benchmarks this weight has no effect: they apply it in the
second phase, where their loss is 0. The paper pairs the first with the last layer of a stage and max-pools. Here, as in
the benchmarks, the stages' outputs are paired and average-pooled. The paper needs equal channels. If the channels
differ here, a learned 1x1 convolution and batch norm bring the student's to the teacher's number. The batch norm is for
networks that do not normalise their stages (ViT, ConvNeXt). Their maps can be large, the loss grows with the fourth
power of the maps, and at weight 50 the first steps would diverge.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.spatial import as_map, match_resolution, paired_stages, stage_pairs
from options import not_negative


def flow(lower: jax.Array, upper: jax.Array) -> jax.Array:
    """FSP matrix of two feature maps of one network.

    Args:
        lower: [B, H, W, C].
        upper: [B, H', W', D].

    Returns:
        [B, C, D] float32, mean over positions of the products.
    """
    lower, upper = match_resolution(wide(lower), wide(upper))
    return jnp.einsum("bhwc,bhwd->bcd", lower, upper) / (lower.shape[1] * lower.shape[2])


def flow_loss(student: list[jax.Array], teacher: list[jax.Array]) -> jax.Array:
    """Squared difference of two networks' FSP matrices.

    Args:
        student, teacher: at least two feature maps [B, H, W, C] each, in depth order, with equal channels; resolutions
            may differ.

    Returns:
        Scalar: sum over neighbouring maps of the mean over batch and entries.
    """
    total = 0.0
    for i in range(len(student) - 1):
        s, t = matched(flow(student[i], student[i + 1]), flow(teacher[i], teacher[i + 1]))
        total = total + jnp.mean(jnp.square(s - t))
    return total


class FSP(Distiller):
    """Flow between stages: Gram matrices of neighbouring stages, learned in a first phase before the labels.

    Paper: Yim, Joo, Bae, Kim, CVPR 2017

    Attributes:
        warmup_epochs: epochs of the first phase, before the main training.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    needs_labels = True
    weight: float = not_negative(50.0)
    warmup_epochs: int = not_negative(30)
    stages: str = paired_stages()

    @property
    def first_phase_epochs(self) -> int:
        return self.warmup_epochs

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        if len(pairs) < 2:
            raise ValueError("FSP compares neighbouring stages, and these networks pair only one: take AT or FitNet.")
        maps = [(self._matched(wide(as_map(s)), t.shape[-1]), t) for s, t in pairs]
        loss = self.weight * flow_loss(*(list(side) for side in zip(*maps, strict=True)))
        loss = jnp.where(batch.epoch < self.warmup_epochs, loss, 0.0)
        return loss, {"FSP": loss}

    def _matched(self, x: jax.Array, channels: int) -> jax.Array:
        return x if x.shape[-1] == channels else ConvNorm(channels)(x)
