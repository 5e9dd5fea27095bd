"""MGD: the teacher's map, generated from a student's map of which a random part is masked.

    loss = weight * sum_pairs sum_hwc (G(m * A f_s) - f_t)^2 / B,   G = conv3x3(ReLU(conv3x3(.))), A a 1x1 convolution
    m = 0 for a random `masked` part of the channels (or of the positions) of each image, else 1

Paper: Yang, Li, Shao, Shi, Yuan, Yuan. Masked Generative Distillation. ECCV 2022. arXiv:2205.01529.

So the rest of the student's map has to carry the information of the masked part. The defaults are the authors' for
ImageNet: the last stage, weight 7e-5, 15 % of the channels. For detection they mask 65 % of the positions, with weight
2e-5. The squares are summed over positions and channels, so the weight depends on the size of the map. The random
numbers follow from the step's key and the example's index. The larger of two maps is average-pooled to the smaller.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import to_channels
from distiller.spatial import LAST, match_resolution, paired_stages, stage_pairs
from models.layers import Conv, default_uniform
from options import between, not_negative, one_of


def random_mask(key: jax.Array, index: jax.Array, shape: tuple[int, ...], masked: float) -> jax.Array:
    """[B, *shape] bool; each entry is False with probability `masked`.

    Args:
        key: a key of the step.
        index: [B] int32, the examples.
        shape: the shape of one example's mask.
        masked: probability in [0, 1].
    """
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), shape) >= masked)(index)


def generation_loss(generated: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared difference of two maps [B, H, W, C].

    Returns:
        Scalar: sum over positions and channels, mean over the batch.

    Raises:
        ValueError: shapes differ.
    """
    generated, teacher = matched(generated, teacher)
    return jnp.sum(jnp.square(generated - teacher)) / teacher.shape[0]


class Generator(nn.Module):
    """A masked map of the student [B, H, W, C] -> the teacher's [B, H, W, channels]; no 1x1 if C is `channels`."""

    channels: int

    @nn.compact
    def __call__(self, x, mask):
        x = to_channels(x, self.channels)
        x = jnp.where(mask, x, 0.0)
        for i in (1, 2):
            conv = Conv(self.channels, 3, use_bias=True, kernel_init=default_uniform, dtype=x.dtype, name=f"conv{i}")
            x = conv(nn.relu(x) if i == 2 else x)
        return x


class MGD(Distiller):
    """Maps of the teacher, generated from the student's maps with a random part masked.

    Paper: Yang, Li, Shao, Shi, Yuan, Yuan, ECCV 2022, arXiv:2205.01529

    Attributes:
        masked: the part that is masked.
        mask: what is masked, "channels" or "positions".
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    weight: float = not_negative(7e-5)
    masked: float = between(0.0, 1.0, 0.15, with_high=False)
    mask: str = one_of("channels", "positions")
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        total = 0.0
        for i, (s, t) in enumerate(stage_pairs(student.features, teacher.features, self.stages), start=1):
            s, t = match_resolution(wide(s), wide(t))
            shape = (1, 1, t.shape[3]) if self.mask == "channels" else (*t.shape[1:3], 1)
            mask = random_mask(self.make_rng("method"), batch.index, shape, self.masked)
            total = total + generation_loss(Generator(t.shape[3], name=f"generator{i}")(s, mask), t)
        loss = self.weight * total
        return loss, {"MGD": loss}
