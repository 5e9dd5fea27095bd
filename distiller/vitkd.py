"""ViTKD: a ViT's first blocks mimic the teacher's; its last block, with tokens masked, generates the teacher's tokens.

    loss = weight * (shallow_weight * sum_l sum_nd (A_l s_l - t_l)^2 / B
                     + deep_weight * sum_nd m_n (G(x)_nd - norm(t_L)_nd)^2 / (masked * B))
    x = (1 - m) * A norm(s_L) + m * e,   G = conv3x3(ReLU(conv3x3(.))) on the map of patches,   l = 1, 2

s_l, t_l: the patch tokens [N, D] after block l of student and teacher, L the last block. m_n is 1 for a random `masked`
part of the N tokens of each image, else 0. e is a learned token. A_l, A are linear layers, used if the widths differ.

Paper: Yang, Li, Zeng, Li, Yuan, Li. ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation. 2022.
arXiv:2209.02432 (CVPR Workshops 2024: ViTKD: Feature-based Knowledge Distillation for Vision Transformers).

The defaults are the authors' code: weights 3e-5 and 3e-6, half of the tokens masked, the squares summed over tokens and
channels. So the weights depend on the number of tokens (196 there). The authors add NKD. Deviations:
- The code takes the last block's tokens after the network's last layer norm. A ViT of this library normalises only the
  class token there. So a layer norm without parameters stands in its place.
- The larger of two maps of patches is average-pooled to the smaller, so the networks may have different patches.
- The random numbers follow from the step's key and the example's index.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.blocks import block_pairs
from distiller.normalised import Linear
from distiller.spatial import LAST, match_resolution, one_pair, paired_stages
from models.layers import Conv, default_uniform
from options import between, not_negative


def layer_normalised(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """(x - mean) / deviation over the last axis, as a layer norm without scale and offset."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)


def token_mask(key: jax.Array, index: jax.Array, shape: tuple[int, int], masked: float) -> jax.Array:
    """[B, H, W, 1] bool: True for the same number of tokens in each image, N - floor(N * (1 - masked)).

    Args:
        key: a key of the step.
        index: [B] int32, the examples.
        shape: (H, W), with N = H * W tokens.
        masked: in (0, 1).
    """
    count = math.prod(shape)
    kept = int(count * (1 - masked))
    ranks = jax.vmap(lambda i: jnp.argsort(jax.random.permutation(jax.random.fold_in(key, i), count)))(index)
    return (ranks >= kept).reshape(len(index), *shape, 1)


def squared_sum(a: jax.Array, b: jax.Array, counts: jax.Array | None = None) -> jax.Array:
    """Squared difference of [B, H, W, C]: sum over positions and channels, mean over the batch.

    Args:
        a, b: [B, H, W, C].
        counts: [B, H, W, 1] bool, the positions that count; None: all.

    Raises:
        ValueError: shapes differ.
    """
    a, b = matched(a, b)
    squares = jnp.square(a - b)
    return jnp.sum(squares if counts is None else jnp.where(counts, squares, 0.0)) / len(a)


class Generator(nn.Module):
    """A map with masked positions [B, H, W, C] -> [B, H, W, C]: a learned token in their place, two convolutions."""

    @nn.compact
    def __call__(self, x, mask):
        channels = x.shape[-1]
        token = self.param("token", nn.initializers.zeros, (channels,), jnp.float32).astype(x.dtype)
        x = jnp.where(mask, token, x)
        for i in (1, 2):
            conv = Conv(channels, 3, use_bias=True, kernel_init=default_uniform, dtype=x.dtype, name=f"conv{i}")
            x = conv(nn.relu(x) if i == 2 else x)
        return x


class ViTKD(Distiller):
    """Tokens of a ViT's first blocks, mimicked, and of its last block, generated from partly masked tokens.

    Paper: Yang, Li, Zeng, Li, Yuan, Li, CVPR Workshops 2024, arXiv:2209.02432

    Attributes:
        shallow_weight: weight of the first blocks' difference.
        deep_weight: weight of the generated block's difference.
        masked: the part of the tokens that is masked.
        blocks: pairs "STUDENT:TEACHER,..." of the blocks that the student mimics.
        generated: the pair of blocks whose tokens are generated.
    """

    weight: float = not_negative(1.0)
    shallow_weight: float = not_negative(3e-5)
    deep_weight: float = not_negative(3e-6)
    masked: float = between(0.0, 1.0, 0.5, with_low=False, with_high=False)
    blocks: str = paired_stages("1:1,2:2", taps=False)
    generated: str = one_pair(LAST, taps=False)

    @nn.compact
    def __call__(self, student, teacher, batch):
        shallow = 0.0
        for number, (s, t) in enumerate(block_pairs("ViTKD", "block", student, teacher, self.blocks), start=1):
            s, t = match_resolution(wide(s), wide(t))
            shallow = shallow + squared_sum(_aligned(s, t.shape[-1], f"align{number}"), t)
        ((s, t),) = block_pairs("ViTKD", "block", student, teacher, self.generated)
        s, t = match_resolution(layer_normalised(wide(s)), layer_normalised(wide(t)))
        mask = token_mask(self.make_rng("method"), batch.index, t.shape[1:3], self.masked)
        generated = Generator(name="generator")(_aligned(s, t.shape[-1], "align_last"), mask)
        terms = {
            "ViTKD_shallow": self.weight * self.shallow_weight * shallow,
            "ViTKD_deep": self.weight * self.deep_weight * squared_sum(generated, t, mask) / self.masked,
        }
        return sum(terms.values()), terms


def _aligned(x: jax.Array, width: int, name: str) -> jax.Array:
    """[..., C] -> [..., width] by a linear layer; `x` itself if C is `width`. Call this in a module's compact call."""
    return x if x.shape[-1] == width else Linear(width, name=name)(x)
