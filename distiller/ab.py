"""AB: activation boundaries: whether each of the teacher's neurons lies above or below zero; learned before the labels.

    loss = weight * 3 / 1000 * sum_i 2^(i - n) * mean_b sum_{h,w,c} relu(m - sign(t_i) r_i)^2

for the stages i = 1 ... n before their ReLU. t is the teacher's stage (the sign of 0 is -1), r = connector(student's
stage), m the margin.

Paper: Heo, Lee, Yun, Choi. Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons.
AAAI 2019. arXiv:1811.03233, equation 5.

The training has two phases. In the first `warmup_epochs` student and connectors learn from this loss alone. In the
second the student learns from cross-entropy alone, and this loss is 0. The factor 3/1000 and the stages' weights are
those of the paper's code and of the benchmarks. The connector is a convolution with batch norm (`Connector`). Stages
of equal shapes have no connector, as in the benchmarks. Networks without taps before the ReLU (ViT) raise an error: a
residual stream without a ReLU has no activation boundary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.connectors import Connector
from distiller.spatial import paired_stages, stage_pairs
from options import not_negative


def boundary_loss(student: jax.Array, teacher: jax.Array, margin: float = 1.0) -> jax.Array:
    """Squared hinge that pushes the student's neurons to the teacher's side of zero.

    Args:
        student, teacher: [B, H, W, C], before the activation.
        margin: distance from zero at which a neuron on the right side costs nothing.

    Returns:
        Scalar: sum over positions and channels, mean over the batch.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    wrong = jnp.where(teacher > 0, margin - student, margin + student)
    return jnp.sum(jnp.square(nn.relu(wrong))) / student.shape[0]


class AB(Distiller):
    """Activation boundaries: the sign of every neuron before its ReLU, learned in a first phase before the labels.

    Paper: Heo, Lee, Yun, Choi, AAAI 2019, arXiv:1811.03233

    Attributes:
        margin: the hinge's margin, see `boundary_loss`.
        warmup_epochs: epochs of the first phase, before the main training.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    needs_labels = True
    margin: float = not_negative(1.0)
    warmup_epochs: int = not_negative(30)
    stages: str = paired_stages()

    @property
    def first_phase_epochs(self) -> int:
        return self.warmup_epochs

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages, "_preact")
        total = 0.0
        for i, (s, t) in enumerate(pairs):
            if s.shape != t.shape:
                s = Connector(t.shape[3], *t.shape[1:3])(s)
            total = total + boundary_loss(s, t, self.margin) * 2.0 ** (i + 1 - len(pairs))
        loss = jnp.where(batch.epoch < self.warmup_epochs, self.weight * 3e-3 * total, 0.0)
        return loss, {"AB": loss}
