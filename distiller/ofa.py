"""OFA: the teacher's predictions, taught to the student's logits and to an exit after each of its stages.

    loss = weight * (L(z_s) + sum_stages L(exit_i(f_i))),   L(z) = -mean_b sum_k ((t_k + 1_ky)^gamma - 1_ky) log s_k
    t = softmax(z_t / T), s = softmax(z / T), y the label, 1_ky = 1 where k is the label

Paper: Hao, Guo, Han, Tang, Hu, Wang, Xu. One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation. NeurIPS 2023. arXiv:2310.19444.

L is the released code's: gamma (`eps` there) is the exponent of every class, and the exits have no label loss. In the
paper's formula the exponent applies to the label's class only, and the +1 stays. With gamma 1, the default and the
CIFAR-100 setting, L is the cross-entropy with the teacher's probabilities and reads no label. T^2 is not in.

An exit is the released code's for convolutional students: strided separable convolutions (one for each later stage; a
1x1 convolution after the last stage), the mean over positions and a linear layer. Here the widths are at most the wider
embedding's, and the convolutions end at a map of one position, so any number of stages works. A transformer's patch
tokens go through the same exits as a square map; the released code merges patches and adds transformer blocks. The
exits are used in training only, so their batch norms use the batch's statistics. A row without a label has 1_ky = 0.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import BatchNorm
from distiller.spatial import as_map
from models import stages
from models.layers import Conv
from options import not_negative, positive


def enhanced_loss(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, gamma: float = 1.0, temperature: float = 1.0
) -> jax.Array:
    """Cross-entropy with the teacher's probabilities. A gamma above 1 raises the label's probability.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        label: [B] int; -1: no class is raised.
        gamma: exponent, above 0.
        temperature: dimensionless, above 0; T^2 is not in.

    Returns:
        Scalar: sum over classes, mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    student, teacher = jax.nn.log_softmax(student / temperature), jax.nn.softmax(teacher / temperature)
    target = jax.nn.one_hot(label, student.shape[1], dtype=student.dtype)
    return -jnp.mean(jnp.sum(((teacher + target) ** gamma - target) * student, axis=1))


class SeparableConv(nn.Module):
    """Two separable 3x3 convolutions with batch norm and ReLU: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), width]."""

    width: int

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        for i, (stride, width) in enumerate([(2, channels), (1, self.width)]):
            x = Conv(channels, 3, stride, groups=channels, dtype=x.dtype, name=f"depthwise{i}")(x)
            x = Conv(width, 1, dtype=x.dtype, name=f"pointwise{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm{i}")(x))
        return x


class Exit(nn.Module):
    """A stage's map [B, H, W, C] -> logits [B, num_classes].

    Attributes:
        steps: halvings of the map.
        width: channels of the linear layer's input.
        num_classes: K.
    """

    steps: int
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = wide(x)
        steps = min(self.steps, (max(x.shape[1:3]) - 1).bit_length())
        for i in range(steps):
            width = self.width if i == steps - 1 else min(2 * x.shape[-1], self.width)
            x = SeparableConv(width, name=f"step{i}")(x)
        if not steps:
            x = Conv(self.width, 1, use_bias=True, dtype=x.dtype, name="project")(x)
        init = nn.initializers.normal(0.02)
        return nn.Dense(self.num_classes, dtype=x.dtype, kernel_init=init, name="linear")(jnp.mean(x, axis=(1, 2)))


class OFA(Distiller):
    """Predictions at an exit after every stage, with the label's class raised by the teacher's confidence.

    Paper: Hao, Guo, Han, Tang, Hu, Wang, Xu, NeurIPS 2023, arXiv:2310.19444

    Attributes:
        gamma: exponent of the target enhancement; 1 enhances nothing.
        temperature: T, dimensionless.
        exit_weight: weight of the exits' losses; the loss of the student's own logits has weight 1.
    """

    gamma: float = positive(1.0)
    temperature: float = positive(1.0)
    exit_weight: float = not_negative(1.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        maps = [as_map(x) for x in stages(student.features)]
        if not maps:
            raise ValueError(f"The student has no taps stage1 ...; it has {sorted(student.features) or 'logits only'}.")
        widths = [x.features["embedding"].shape[-1] for x in (student, teacher) if "embedding" in x.features]
        width = max(widths, default=maps[-1].shape[-1])

        def loss(logits):
            return enhanced_loss(logits, teacher.logits, batch.label, self.gamma, self.temperature)

        exits = 0.0
        for i, x in enumerate(maps):
            head = Exit(len(maps) - 1 - i, width, student.logits.shape[1], name=f"exit{i + 1}")
            exits = exits + loss(head(x))
        terms = {"OFA_logits": self.weight * loss(student.logits), "OFA_exits": self.weight * self.exit_weight * exits}
        return sum(terms.values()), terms
