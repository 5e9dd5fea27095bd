"""MiniLM: how the tokens of one block relate, by their queries, keys and values.

    loss = weight * sum_(a, b) mean_brn KL(softmax_m(a_t b_t' / sqrt(d_t)) || softmax_m(a_s b_s' / sqrt(d_s)))
    a, b: queries, keys or values [N, D] of all heads side by side, cut into R relation heads [N, d], d = D / R

Paper: Wang, Wei, Dong, Bao, Yang, Zhou. MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
Pre-Trained Transformers. NeurIPS 2020. arXiv:2002.10957.
Its second form: Wang, Bao, Huang, Dong, Wei. MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing
Pretrained Transformers. Findings of ACL 2021. arXiv:2012.15828.

The defaults are MiniLMv2's: relations of queries with queries, keys with keys and values with values, weight 1 each,
and 48 relation heads, so the networks may have different numbers of heads. `relations="qk,vv"` with `relation_heads`
the networks' number of heads is the first MiniLM: "qk" is then the attention map. Both papers take the student's last
block and distil language models without labels. MiniLMv2 takes the teacher's last block (base size), or an upper middle
one (large size, 21 of 24). Deviations:
- The tokens are those of an image. The label loss is added as to every method; `ce_weight=0` leaves it out.
- A token that only one network has (DeiT's distillation token) is left out.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.blocks import block_pairs
from distiller.spatial import LAST, one_pair
from options import limited, not_negative, positive

VECTORS = "qkv"  # in the order of the tap


def relation(a: jax.Array, b: jax.Array, heads: int) -> jax.Array:
    """Logarithms of the relations of tokens: log softmax over the tokens of `b`.

    Args:
        a, b: [B, N, D], queries, keys or values of all heads side by side; `heads` divides D.
        heads: R, relation heads.

    Returns:
        [B, R, N, N]; the last axis sums to 1 after `exp`.
    """
    size = a.shape[-1] // heads
    a, b = (x.reshape(*x.shape[:2], heads, size) for x in (a, b))
    return jax.nn.log_softmax(jnp.einsum("bnrd,bmrd->brnm", a, b) * size**-0.5)


def relation_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(teacher || student) of two log-relations [B, R, N, N]: sum over the last axis, mean over all others."""
    return jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


def common_tokens(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tokens [B, N, C] that both networks have: as many tokens before the patches as both have, then the patches.

    Raises:
        ValueError: the networks have different numbers of patches.
    """
    counts = [x.shape[1] for x in (student, teacher)]
    patches = [math.isqrt(count) ** 2 for count in counts]
    if patches[0] != patches[1]:
        raise ValueError(
            f"MiniLM compares tokens one by one; the student has {patches[0]} patches, the teacher {patches[1]}.\n"
            "Give the student the teacher's patch_size, or use ViTKD, which pools the larger map."
        )
    front = min(count - patches[0] for count in counts)
    return tuple(jnp.concatenate([x[:, :front], x[:, x.shape[1] - patches[0] :]], axis=1) for x in (student, teacher))


def _pairs(value: str) -> bool:
    pairs = value.split(",")
    return len(set(pairs)) == len(pairs) and all(len(pair) == 2 and set(pair) <= set(VECTORS) for pair in pairs)


class MiniLM(Distiller):
    """Relations of a transformer block's tokens, by queries, keys and values, KL(teacher || student).

    Paper: Wang, Bao, Huang, Dong, Wei, Findings of ACL 2021, arXiv:2012.15828; Wang et al., NeurIPS 2020,
    arXiv:2002.10957

    Attributes:
        relations: pairs of q (queries), k (keys) and v (values), whose losses are summed.
        relation_heads: R; divides the width of both networks.
        blocks: the pair "STUDENT:TEACHER" of blocks.
    """

    weight: float = not_negative(1.0)
    relations: str = limited("qq,kk,vv", "name different pairs of q, k and v, such as 'qk,vv'", _pairs)
    relation_heads: int = positive(48)
    blocks: str = one_pair(LAST, taps=False)

    @nn.compact
    def __call__(self, student, teacher, batch):
        ((s, t),) = block_pairs("MiniLM", "qkv", student, teacher, self.blocks)
        both = [self._vectors(x, who) for x, who in zip(common_tokens(s, t), ("student", "teacher"), strict=True)]
        terms = {}
        for pair in self.relations.split(","):
            own, its = (relation(*(vectors[VECTORS.index(v)] for v in pair), self.relation_heads) for vectors in both)
            terms[f"MiniLM_{pair}"] = self.weight * relation_loss(own, its)
        return sum(terms.values()), terms

    def _vectors(self, qkv: jax.Array, who: str) -> list[jax.Array]:
        """[B, N, 3 D] -> queries, keys, values [B, N, D] float32 (float64 stays)."""
        width = qkv.shape[-1] // 3
        if width % self.relation_heads:
            raise ValueError(
                f"MiniLM's relation_heads must divide the width of both networks; {self.relation_heads} does not "
                f"divide the {who}'s {width}.\nGive --config.distiller_options.relation_heads another number."
            )
        return jnp.split(wide(qkv), 3, axis=-1)
