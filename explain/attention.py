"""A transformer's own attention as a map: what the class token looks at. The same for every class.

    RawAttention      mean over heads of the last block's attention, the class token's row
    AttentionRollout  the class token's row of A_L ... A_2 A_1,   A_b = (I + mean over heads of attention_b) / 2

Paper: Abnar, Zuidema. Quantifying Attention Flow in Transformers. ACL 2020. arXiv:2005.00928.

The row is that of the tokens in front of the patches: the class token's, the mean of class and distillation token, or,
in a network without either, the mean over all tokens. Only patches are in the map.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, token_grid, wide
from models import ATTENTION, Outputs, resolve
from models.vit import token_map


def rollout(matrices: list[jax.Array]) -> jax.Array:
    """The product of [B, tokens, tokens] matrices, the last block's first."""
    joint = matrices[0]
    for matrix in matrices[1:]:
        joint = matrix @ joint
    return joint


def read_out(matrix: jax.Array, outputs: Outputs) -> jax.Array:
    """What the tokens that are classified take from each patch.

    Args:
        matrix: [B, tokens, tokens], rows take from columns.
        outputs: for the shape of the images.

    Returns:
        [B, h, w].
    """
    size = None if outputs.source is None else outputs.source.images.shape[1:3]
    extra, grid = token_grid(matrix.shape[1], size)
    row = jnp.mean(matrix[:, : extra or None], axis=1)
    return token_map(row[..., None], extra, grid)[..., 0]


def mean_attention(outputs: Outputs) -> list[jax.Array]:
    """Each block's attention [B, tokens, tokens], mean over heads, `wide`."""
    return [jnp.mean(wide(outputs.features[name]), axis=1) for name in resolve(outputs.features, ATTENTION)]


@dataclasses.dataclass(frozen=True)
class RawAttention(Explanation):
    """The last block's attention from the class token to the patches; the target class plays no part.

    Paper: Abnar, Zuidema, ACL 2020, arXiv:2005.00928
    """

    def of(self, outputs, target):
        return read_out(mean_attention(outputs)[-1], outputs)


@dataclasses.dataclass(frozen=True)
class AttentionRollout(Explanation):
    """Attention followed through all blocks and their shortcuts; the target class plays no part.

    Paper: Abnar, Zuidema, ACL 2020, arXiv:2005.00928
    """

    def of(self, outputs, target):
        matrices = mean_attention(outputs)
        shortcut = jnp.eye(matrices[0].shape[-1], dtype=matrices[0].dtype)
        return read_out(rollout([(shortcut + matrix) / 2 for matrix in matrices]), outputs)
