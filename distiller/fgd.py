"""FGD: the teacher's map, weighted by its attention, in and outside of the objects' boxes; and a global relation.

    S(f) = HW softmax over positions (mean_c |f| / T),   C(f) = C softmax over channels (mean_hw |f| / T)
    M = 1 / area of the box around a position (the smallest one), else 0;   N = 1 / number of positions without a box
    loss = sum_pairs (alpha sum S_t C_t M (f_s - f_t)^2 + beta sum S_t C_t N (f_s - f_t)^2
                      + gamma (sum |C_s - C_t| + sum |S_s - S_t|) + lamda sum (r_s(f_s) - r_t(f_t))^2) / B
    r(f) = f + W_2 ReLU(LN(W_1 sum_hw f softmax over positions (w . f)))

Paper: Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan. Focal and Global Knowledge Distillation for Detectors. CVPR 2022.
arXiv:2111.11837.

The weights are the authors' for detectors with anchors and one stage: alpha 1e-3, beta 5e-4, gamma 5e-4, lamda 5e-6.
With two stages each is a twentieth (lamda a tenth) of that. The paper distils the levels of the pyramid:
`stages="p3-p7"`. The sums are over positions and channels. Rows and columns of a box end at the first place past it, as
in the code. r_t learns, too, and W_2 starts at 0 in both. w has no bias: the softmax would not see it. In data without
boxes the object is the whole image, so there is no background. If the channels differ, a learned 1x1 convolution brings
the student's to the teacher's number. The larger of two maps is average-pooled to the smaller.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.connectors import to_channels
from distiller.spatial import LAST, match_resolution, paired_stages, stage_pairs
from models.layers import Conv, default_uniform
from options import not_negative, positive


def attention(feature: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Where a map [B, H, W, C] is active, and in which channels: [B, H, W, 1] and [B, 1, 1, C], each with mean 1."""
    size, (count, height, width, channels) = jnp.abs(feature), feature.shape
    places = jnp.mean(size, axis=3).reshape(count, -1) / temperature
    places = height * width * jax.nn.softmax(places).reshape(count, height, width, 1)
    strengths = channels * jax.nn.softmax(jnp.mean(size, axis=(1, 2)) / temperature)
    return places, strengths[:, None, None]


def foreground(boxes: jax.Array, valid: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """The weights of positions in boxes and outside of all boxes.

    Args:
        boxes: [B, G, 4] (x1, y1, x2, y2) in positions of the map.
        valid: [B, G] bool: which boxes exist.
        height, width: of the map.

    Returns:
        (M [B, H, W, 1], N [B, H, W, 1]), as in the file's formula.
    """
    low, high = jnp.floor(boxes[..., :2]), jnp.ceil(boxes[..., 2:])
    area = jnp.prod(high + 1 - low, axis=-1)
    columns, rows = (jnp.arange(size, dtype=boxes.dtype)[None, None] for size in (width, height))

    def within(places, axis):
        return (places >= low[..., axis, None]) & (places <= high[..., axis, None])

    inside = (within(rows, 1)[..., :, None] & within(columns, 0)[..., None, :]) & valid[..., None, None]
    weights = jnp.max(jnp.where(inside, (1 / area)[..., None, None], 0.0), axis=1)[..., None]
    free = (weights == 0).astype(weights.dtype)
    return weights, free / jnp.maximum(jnp.sum(free, axis=(1, 2, 3), keepdims=True), 1)


class Relation(nn.Module):
    """A map [B, H, W, C] and what its likeliest positions have in common, added to every position."""

    @nn.compact
    def __call__(self, x):
        count, channels = x.shape[0], x.shape[3]
        first = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        scores = Conv(1, 1, kernel_init=first, dtype=x.dtype, name="mask")(x)  # a bias would not change the softmax
        shares = jax.nn.softmax(scores.reshape(count, -1))
        context = jnp.einsum("bn,bnc->bc", shares, x.reshape(count, -1, channels))[:, None, None]
        half = max(channels // 2, 1)
        down = Conv(half, 1, use_bias=True, kernel_init=default_uniform, dtype=x.dtype, name="down")(context)
        down = nn.relu(nn.LayerNorm(epsilon=1e-5, dtype=x.dtype, name="norm")(down))
        return x + Conv(channels, 1, use_bias=True, kernel_init=nn.initializers.zeros, dtype=x.dtype, name="up")(down)


class FGD(Distiller):
    """Maps in and outside of the objects' boxes, weighted by the teacher's attention, and their global relation.

    Paper: Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, CVPR 2022, arXiv:2111.11837

    Attributes:
        alpha: weight of positions in boxes.
        beta: weight of positions outside of all boxes.
        gamma: weight of the attention.
        lamda: weight of the relation.
        temperature: of the attention, dimensionless.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), whose losses are summed.
    """

    alpha: float = not_negative(1e-3)
    beta: float = not_negative(5e-4)
    gamma: float = not_negative(5e-4)
    lamda: float = not_negative(5e-6)
    temperature: float = positive(0.5)
    stages: str = paired_stages(LAST)

    @nn.compact
    def __call__(self, student, teacher, batch):
        terms = dict.fromkeys(("FGD_foreground", "FGD_background", "FGD_attention", "FGD_relation"), 0.0)
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        for number, (s, t) in enumerate(pairs, start=1):
            s, t = match_resolution(wide(s), wide(t))
            s = to_channels(s, t.shape[-1])
            inside, outside = self._places(batch, *t.shape[1:3])
            (s_places, s_strengths), (t_places, t_strengths) = (attention(f, self.temperature) for f in (s, t))
            squares = t_places * t_strengths * jnp.square(s - t)
            related = [Relation(name=f"{who}{number}")(f) for who, f in (("student", s), ("teacher", t))]
            found = (
                self.alpha * jnp.sum(squares * inside),
                self.beta * jnp.sum(squares * outside),
                self.gamma * (jnp.sum(jnp.abs(s_strengths - t_strengths)) + jnp.sum(jnp.abs(s_places - t_places))),
                self.lamda * jnp.sum(jnp.square(related[0] - related[1])),
            )
            for name, value in zip(terms, found, strict=True):
                terms[name] = terms[name] + self.weight * value / s.shape[0]
        return sum(terms.values()), terms

    @nn.nowrap
    def _places(self, batch, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        if batch.objects is None:
            shape = (batch.image.shape[0], height, width, 1)
            return jnp.full(shape, 1 / (height * width)), jnp.zeros(shape)
        rows, columns = batch.image.shape[1:3]
        scale = jnp.array([width / columns, height / rows] * 2, jnp.float32)
        return foreground(batch.objects.boxes * scale, batch.objects.targets, height, width)
