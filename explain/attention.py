"""Maps of a transformer's own attention: how much the class token attends to each patch.

These maps are the same for every target class.

    RawAttention      the class token's row of the last block's attention, mean over heads
    AttentionRollout  the class token's row of A_L ... A_2 A_1,   A_b = (I + mean over heads of attention_b) / 2

Paper: Abnar, Zuidema. Quantifying Attention Flow in Transformers. ACL 2020. arXiv:2005.00928.

With a class and a distillation token, the row is the mean of their two rows. Without either, the row is the mean over
all tokens. The map holds the columns of the patches only.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, token_grid, wide
from models import ATTENTION, Outputs, resolve
from models.vit import token_map


def rollout(matrices: list[jax.Array]) -> jax.Array:
    """Return the product A_L ... A_2 A_1 of the matrices [A_1, A_2 ... A_L], [B, tokens, tokens] each."""
    joint = matrices[0]
    for matrix in matrices[1:]:
        joint = matrix @ joint
    return joint


def read_out(matrix: jax.Array, outputs: Outputs) -> jax.Array:
    """Return the row of the classified tokens (see the module's docstring) as a map of the patches.

    Args:
        matrix: [B, tokens, tokens]; row i says how much token i attends to each token.
        outputs: the outputs that the matrix belongs to.

    Returns:
        [B, h, w].
    """
    extra, grid = token_grid(matrix.shape[1], outputs)
    row = jnp.mean(matrix[:, : extra or None], axis=1)
    return token_map(row[..., None], extra, grid)[..., 0]


def mean_attention(outputs: Outputs) -> list[jax.Array]:
    """Return the attention of each block, mean over heads: [B, tokens, tokens], float32 or float64."""
    return [jnp.mean(wide(outputs.features[name]), axis=1) for name in resolve(outputs.features, ATTENTION)]


@dataclasses.dataclass(frozen=True)
class RawAttention(Explanation):
    """Attention from the class token to the patches in the last block; the target class has no effect.

    Paper: Abnar, Zuidema, ACL 2020, arXiv:2005.00928
    """

    def of(self, outputs, target):
        return read_out(mean_attention(outputs)[-1], outputs)


@dataclasses.dataclass(frozen=True)
class AttentionRollout(Explanation):
    """Attention followed through all blocks and their shortcuts; the target class has no effect.

    Paper: Abnar, Zuidema, ACL 2020, arXiv:2005.00928
    """

    def of(self, outputs, target):
        matrices = mean_attention(outputs)
        shortcut = jnp.eye(matrices[0].shape[-1], dtype=matrices[0].dtype)
        return read_out(rollout([(shortcut + matrix) / 2 for matrix in matrices]), outputs)
