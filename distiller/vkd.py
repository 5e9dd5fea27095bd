"""VkD: the teacher's pooled and normalised last stage, matched by an orthogonal projection of the student's.

    P = orthogonal [D_s, D_t],   loss = weight * mean_bk h(z_s P - normalise(z_t)),   h = Huber's loss with threshold 1

Paper: Miles, Elezi, Deng. VkD: Improving Knowledge Distillation using Orthogonal Projections. CVPR 2024.
arXiv:2403.06213.

z is the mean over positions of the last stage: over patch tokens, or over positions of a map. The teacher's is
layer-normalised (classification) or, with `whiten`, decorrelated over the batch, which the paper does for generation.
The authors add the divergence of the class probabilities with a weight of its own: `SoftLogits+VkD`.

P is a part of the rotation (I + A)^-1 (I - A), Cayley's map of a skew-symmetric A = W - W^T. W is the parameter. The
map reaches every rotation without an eigenvalue -1. It costs one linear solve of the larger width, and its gradients
are bounded. If the student is wider than the teacher, the columns of P are orthonormal, else its rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.rkd import huber
from distiller.spatial import as_map, one_pair, stage_pairs
from options import not_negative


def orthogonal(weight: jax.Array, rows: int, columns: int) -> jax.Array:
    """A [rows, columns] part of a rotation: P P^T = I, or P^T P = I if there are more rows than columns.

    Args:
        weight: [n, n], n = max(rows, columns), unconstrained.
    """
    skew = weight - weight.T
    identity = jnp.eye(weight.shape[0], dtype=weight.dtype)
    tall = jnp.linalg.solve(identity + skew, (identity - skew)[:, : min(rows, columns)])
    return tall if rows > columns else tall.T


def layer_normalised(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """[B, D] with every row of mean 0 and deviation 1."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=1, keepdims=True) + epsilon)


def whitened(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """[B, D], centred, times (covariance + epsilon)^-1/2: uncorrelated, and of variance 1 if B is large enough.

    No gradient flows back: the function is for the teacher.
    """
    x = jax.lax.stop_gradient(x)
    left, values, right = jnp.linalg.svd(x - jnp.mean(x, axis=0), full_matrices=False)
    return (left * (values * jax.lax.rsqrt(jnp.square(values) / len(x) + epsilon))) @ right


def projection_loss(student: jax.Array, target: jax.Array, projection: jax.Array) -> jax.Array:
    """Huber's loss between `student` [B, D_s] through `projection` [D_s, D_t] and `target` [B, D_t].

    Returns:
        Scalar: mean over batch and D_t.

    Raises:
        ValueError: shapes differ.
    """
    student, target = matched(student @ projection, target)
    return huber(student - target)


class VkD(Distiller):
    """Pooled last stage through an orthogonal projection, against the teacher's normalised one.

    Paper: Miles, Elezi, Deng, CVPR 2024, arXiv:2403.06213

    Attributes:
        whiten: whiten the teacher's features over the batch instead of layer-normalising them.
        stages: the pair "STUDENT:TEACHER" of stages (spatial.py).
    """

    weight: float = not_negative(1.0)
    whiten: bool = False
    stages: str = one_pair()

    @nn.compact
    def __call__(self, student, teacher, batch):
        ((s, t),) = stage_pairs(student.features, teacher.features, self.stages)
        s, t = (jnp.mean(as_map(wide(x)), axis=(1, 2)) for x in (s, t))
        rows, columns = s.shape[-1], t.shape[-1]
        side = max(rows, columns)
        weight = self.param("weight_matrix", nn.initializers.normal(side**-0.5), (side, side), jnp.float32)
        projection = orthogonal(weight.astype(s.dtype), rows, columns)
        loss = self.weight * projection_loss(s, whitened(t) if self.whiten else layer_normalised(t), projection)
        return loss, {"VkD": loss}
