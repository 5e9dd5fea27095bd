"""FT: factors: an autoencoder encodes the teacher's last stage, and a translator finds this code in the student's.

    first phase:  loss = mean (P(f_t) - f_t)^2,   P = decoder(encoder(.)); only P learns
    afterwards:   loss = weight * mean_{b,h,w,c} | u(translator(f_s)) - u(encoder(f_t)) |,   u(x) = vec(x) / ||x||_2

Paper: Kim, Park, Kwak. Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018.
arXiv:1802.04977, equations 1 to 3.

Encoder and decoder (together the paraphraser) and the translator are three 3x3 convolutions each, with leaky ReLU of
slope 0.1. The factor has `k` times the teacher's channels. As in RepDistiller, the translator has batch norm and the
paraphraser has none. The paraphraser learns for 30 epochs by the mean of the squares (the authors' code: of the
absolute values). Weight 200 is that of the CIFAR benchmarks; the authors' code has 500, ImageNet recipes 1000. The
larger of two factors is average-pooled to the smaller.

`pool_channels=True` is the loss behind RepDistiller's published numbers: u(mean_c x_c^2), as in AT, in place of u(x).
In the second phase the encoder is a copy in `memory`, so that weight decay does not change the target.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import BatchNorm
from distiller.normalised import flat, unit
from distiller.spatial import as_map, match_resolution, one_pair, stage_pairs
from models.layers import Conv, default_uniform
from options import not_negative, positive


def factor_loss(student: jax.Array, teacher: jax.Array, pool_channels: bool = False) -> jax.Array:
    """Mean absolute difference of two normalised factors.

    Args:
        student, teacher: [B, H, W, C]; the resolutions may differ, and with `pool_channels` the channels.
        pool_channels: average the squares over the channels first.

    Returns:
        Scalar: mean over all entries (with `pool_channels`, over batch and positions).

    Raises:
        ValueError: the channels differ.
    """
    student, teacher = match_resolution(wide(student), wide(teacher))
    if pool_channels:
        student, teacher = (jnp.mean(jnp.square(x), axis=-1) for x in (student, teacher))
    student, teacher = matched(student, teacher)
    return jnp.mean(jnp.abs(unit(flat(student)) - unit(flat(teacher))))


class Coder(nn.Module):
    """3x3 convolutions of these widths, each with leaky ReLU, [B, H, W, C] -> [B, H, W, widths[-1]]."""

    widths: tuple[int, ...]
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = Conv(width, 3, use_bias=not self.batch_norm, kernel_init=default_uniform, dtype=x.dtype)(x)
            x = BatchNorm()(x) if self.batch_norm else x
            x = nn.leaky_relu(x, 0.1)
        return x


class FT(Distiller):
    """Factors of the last stage: an autoencoder encodes the teacher's, a translator finds this code in the student's.

    Paper: Kim, Park, Kwak, NeurIPS 2018, arXiv:1802.04977

    Attributes:
        k: the factor's channels, divided by the teacher's.
        pool_channels: use RepDistiller's loss.
        stages: the pair "STUDENT:TEACHER" of stages (spatial.py).
        warmup_epochs: epochs of the first phase, before the main training. `weight` does not apply to the paraphraser's
            loss.
    """

    weight: float = not_negative(200.0)
    k: float = positive(0.5)
    pool_channels: bool = False
    stages: str = one_pair()
    warmup_epochs: int = not_negative(30)

    first_phase_learns = ("method",)

    @property
    def first_phase_epochs(self) -> int:
        return self.warmup_epochs

    @nn.compact
    def __call__(self, student, teacher, batch):
        ((s, t),) = stage_pairs(student.features, teacher.features, self.stages)
        s, t = wide(as_map(s)), wide(as_map(t))
        channels = t.shape[-1]
        width = round(self.k * channels)
        if width < 1:
            raise ValueError(f"FT: k={self.k} leaves nothing of the teacher's {channels} channels; give a larger k.")
        first = batch.epoch < self.warmup_epochs

        widths = (channels, width, width)
        encoder = Coder(widths, name="encoder")
        rebuilt = Coder((width, channels, channels), name="decoder")(encoder(t))
        reconstruction = jnp.mean(jnp.square(rebuilt - t))

        learned = encoder.variables["params"]
        kept = self.variable("memory", "kept_encoder", lambda: learned)
        if self.is_mutable_collection("memory"):
            # At the end of the phase the copy lacks the encoder's last update, a negligible difference.
            kept.value = jax.tree.map(lambda new, old: jnp.where(first, new, old), learned, kept.value)
        target = Coder(widths, parent=None).apply({"params": kept.value}, t)
        factor = Coder((s.shape[-1], width, width), batch_norm=True, name="translator")(s)

        phases = {
            "FT_paraphraser": jnp.where(first, reconstruction, 0.0),
            "FT": jnp.where(first, 0.0, self.weight * factor_loss(factor, target, self.pool_channels)),
        }
        return sum(phases.values()), phases
