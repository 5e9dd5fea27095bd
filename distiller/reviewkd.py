"""ReviewKD: each of the teacher's stages, rebuilt from the student's same stage and all deeper stages.

    From the embedding back to the first stage: x = conv1x1(f_s), y = the deeper step's fusion, resized to x,
    z = z1 x + z2 y with (z1, z2) = sigmoid(conv1x1([x, y])) at each position, f = conv3x3(z) in the teacher's shape.
    hcl(f, t) = sum_l w_l mean (pool_l(f) - pool_l(t))^2 / sum_l w_l,  l = full, 4, 2, 1,  w = 1, 1/2, 1/4, 1/8
    loss = weight * min((epoch + 1) / warmup_epochs, 1) * sum over stages and embedding of hcl(f, t)

Paper: Chen, Liu, Zhao, Jia. Distilling Knowledge via Knowledge Review. CVPR 2021. arXiv:2104.09044.

As in the authors' code, the teacher's stages are read before their last ReLU (if the network has such taps), the
student's stages after it. The 1x1 and the 3x3 convolutions have a batch norm. Maps are resized to the nearest element.
x, y and z have min(512, width of the student's embedding) channels. The ramp counts whole epochs from 1. The authors'
weights differ by pair: 5 (ResNet32x4 to ResNet8x4; WRN; ShuffleNetV1), 8 (ShuffleNetV2), 0.6 (ResNet56 to ResNet20), 1
(ResNet110; ImageNet). Here all shapes follow from the networks, and `stage_pairs` pairs unequal numbers of stages. A
pooling level that is not smaller than the shorter side of the map is left out. Detectors have no embedding: with
`stages="p3-p7"` the fusion begins at the coarsest level.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from distiller.base import Distiller, matched, wide
from distiller.connectors import ConvNorm
from distiller.normalised import embedding
from distiller.spatial import adaptive_average_pool, as_map, paired_stages, stage_pairs
from distiller.target import ramp
from models.layers import Conv, default_uniform
from options import not_negative


def hierarchical_context_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared differences of two maps [B, H, W, C] at full size and pooled to 4, 2 and 1, as a weighted mean.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    total, weight, weights = jnp.mean(jnp.square(student - teacher)), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(student.shape[1:3]):
            weight /= 2
            pooled = adaptive_average_pool(student - teacher, side, side)
            total, weights = total + weight * jnp.mean(jnp.square(pooled)), weights + weight
    return total / weights


def nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W, C] -> [B, height, width, C]; element i of n is element floor(i * N / n), as in PyTorch."""
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = np.arange(height) * x.shape[1] // height, np.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of one of the student's stages with the fusion of the deeper stages.

    Attributes:
        middle: channels of the fused map.
    """

    middle: int

    @nn.compact
    def __call__(self, x, deeper, shape):
        """x [B, H, W, C], deeper [B, h, w, middle] or None -> ([B, *shape], fused [B, shape[0], shape[1], middle])."""
        height, width, channels = shape
        x = ConvNorm(self.middle, name="conv1")(x)
        if deeper is not None:
            deeper = nearest(deeper, *x.shape[1:3])
            both = jnp.concatenate([x, deeper], axis=-1)
            attention = Conv(2, 1, use_bias=True, kernel_init=default_uniform, dtype=x.dtype, name="attention")(both)
            attention = nn.sigmoid(attention)
            x = x * attention[..., :1] + deeper * attention[..., 1:]
        x = nearest(x, height, width)
        return ConvNorm(channels, 3, name="conv2")(x), x


class ReviewKD(Distiller):
    """Each of the teacher's stages, rebuilt from the student's same and all deeper stages.

    Paper: Chen, Liu, Zhao, Jia, CVPR 2021, arXiv:2104.09044

    Attributes:
        warmup_epochs: epochs over which the weight rises to its full value.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    weight: float = not_negative(1.0)
    warmup_epochs: int = not_negative(20)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        before = {k: teacher.features.get(f"{k}_preact", v) for k, v in teacher.features.items() if "_" not in k}
        pairs = [(as_map(s), as_map(t)) for s, t in stage_pairs(student.features, before, self.stages)]
        if "embedding" in student.features or "embedding" in teacher.features:  # a detector has none
            pairs += [(embedding(student, "student")[:, None, None], embedding(teacher, "teacher")[:, None, None])]
        middle, deeper, loss = min(512, pairs[-1][0].shape[-1]), None, 0.0
        for depth, (s, t) in reversed(list(enumerate(pairs, start=1))):
            rebuilt, deeper = Fusion(middle, name=f"fusion{depth}")(wide(s), deeper, t.shape[1:])
            loss = loss + hierarchical_context_loss(rebuilt, t)
        loss = self.weight * ramp(batch.epoch, self.warmup_epochs).astype(loss.dtype) * loss
        return loss, {"ReviewKD": loss}
