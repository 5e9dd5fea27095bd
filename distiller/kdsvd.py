"""KDSVD: relations between the main directions of neighbouring stages: singular vectors, compared by an RBF.

    loss = weight * sum_{i>1} mean_b sum_{c,d,m} (K_s,i - K_t,i)^2,   K_i,cdm = exp(-(x_i,cm - x_{i-1},dm)^2 / 8)

x_i = V_i S_i: V_i [C, k] are the first k right singular vectors of stage i's map as a matrix [HW, C]; S_i are the
teacher's singular values, together of unit norm. For each of the teacher's vectors the loss takes the closest one of
the student's first k + 3 vectors, with the teacher's sign. The teacher's signs make the entry of largest magnitude
positive. The benchmarks leave the signs to the SVD, although K depends on them.

Paper: Lee, Kim, Song. Self-supervised Knowledge Distillation Using Singular Value Decomposition. ECCV 2018.
arXiv:1807.06819, section 3.

k = 1 and weight 1 are the benchmarks'. The paper needs equal channels. If the channels differ here, a learned 1x1
convolution brings the student's to the teacher's number.

Singular vectors have no derivative where singular values meet. The paper bounds the gradient there by a formula of its
own; the benchmarks set values that are not finite to 0. Here the vectors are eigenvectors of the smaller Gram matrix,
and the factor 1 / (l_j - l_i) of their derivative becomes d / (d^2 + e^2), with d = l_j - l_i and e = 1e-5 l_max. The
derivative is exact where the eigenvalues are apart, zero where they meet, and finite everywhere.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.connectors import to_channels
from distiller.normalised import unit
from distiller.spatial import as_map, paired_stages, stage_pairs
from options import positive

LEAST_GAP = 1e-5  # e in the derivative (see above), relative to the largest eigenvalue


@jax.custom_jvp
def eigenvectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [..., n] in ascending order and eigenvectors [..., n, n] (columns) of symmetric matrices.

    As `jnp.linalg.eigh`, with derivatives that stay finite where eigenvalues meet.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@eigenvectors.defjvp
def _(primals, tangents):
    values, vectors = eigenvectors(primals[0])
    turned = jnp.swapaxes(vectors, -1, -2) @ tangents[0] @ vectors
    turned = (turned + jnp.swapaxes(turned, -1, -2)) / 2
    gap = values[..., None, :] - values[..., :, None]
    least = LEAST_GAP * jnp.max(jnp.abs(values), axis=-1)[..., None, None]
    inverse = gap / (jnp.square(gap) + jnp.square(least) + 1e-30)
    return (values, vectors), (jnp.diagonal(turned, axis1=-2, axis2=-1), vectors @ (inverse * turned))


def singular(feature: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Largest squared singular values, and their right singular vectors, of feature maps as matrices [H * W, C].

    Args:
        feature: [B, H, W, C].
        count: number of singular values; at most min(H * W, C) are returned.

    Returns:
        values [B, count] in descending order, vectors [B, C, count]; signs are arbitrary. Float32.
    """
    x = wide(feature).reshape(feature.shape[0], -1, feature.shape[-1])
    count = min(count, *x.shape[1:])
    if x.shape[2] <= x.shape[1]:
        values, vectors = eigenvectors(jnp.einsum("bnc,bnd->bcd", x, x))
        return values[:, ::-1][:, :count], vectors[:, :, ::-1][:, :, :count]
    values, left = eigenvectors(jnp.einsum("bnc,bmc->bnm", x, x))
    values, left = values[:, ::-1][:, :count], left[:, :, ::-1][:, :, :count]
    vectors = jnp.einsum("bnc,bnk->bck", x, left)
    norm = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    # Below 1e-4 of the first singular value, vectors are rounding errors: this scale shrinks them and their gradient.
    return values, vectors * jax.lax.rsqrt(norm + 1e-8 * jax.lax.stop_gradient(values[:, None, :1]) + 1e-24)


def signed(vectors: jax.Array) -> jax.Array:
    """Vectors [B, C, k] with the signs that make the entry of largest magnitude positive."""
    largest = jnp.argmax(jnp.abs(vectors), axis=1, keepdims=True)
    return vectors * jnp.sign(jnp.take_along_axis(vectors, largest, axis=1))


def align(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Finds the student's closest vector to each of the teacher's vectors, and gives it the teacher's sign.

    Args:
        student: [B, C, K].
        teacher: [B, C, k].

    Returns:
        [B, C, k].
    """
    cosine = jax.lax.stop_gradient(jnp.einsum("bci,bcj->bij", student, teacher))
    best = jnp.argmax(jnp.abs(cosine), axis=1, keepdims=True)
    return jnp.take_along_axis(student, best, axis=2) * jnp.sign(jnp.take_along_axis(cosine, best, axis=1))


def singular_vector_loss(student: list[jax.Array], teacher: list[jax.Array], top_k: int = 1) -> jax.Array:
    """Squared difference of the RBFs of neighbouring maps' scaled singular vectors.

    Args:
        student, teacher: feature maps [B, H, W, C] in depth order, with equal channels; resolutions may differ.
        top_k: singular vectors of the teacher, matched with the student's first `top_k` + 3.

    Returns:
        Scalar: sum over neighbouring maps, channels and vectors, mean over the batch.
    """
    total, before = 0.0, None
    for s, t in zip(student, teacher, strict=True):
        values, at_teacher = singular(t, top_k)
        at_teacher = signed(at_teacher)
        scale = unit(jnp.sqrt(jax.lax.stop_gradient(jnp.maximum(values, 0.0))))
        at_student, at_teacher = matched(align(singular(s, top_k + 3)[1], at_teacher), at_teacher)
        here = [x * scale[:, None, :] for x in (at_student, at_teacher)]
        if before is not None:
            # a stage with fewer than k positions or channels has fewer vectors
            k = min(here[0].shape[2], before[0].shape[2])
            rbf = [
                jnp.exp(-jnp.square(x[:, :, None, :k] - y[:, None, :, :k]) / 8)
                for x, y in zip(here, before, strict=True)
            ]
            total = total + jnp.sum(jnp.square(rbf[0] - rbf[1])) / s.shape[0]
        before = here
    return total


class KDSVD(Distiller):
    """Singular vectors of the stages' features: how the vectors of neighbouring stages relate.

    Paper: Lee, Kim, Song, ECCV 2018, arXiv:1807.06819

    Attributes:
        top_k: k, singular vectors per stage.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    top_k: int = positive(1)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        if len(pairs) < 2:
            raise ValueError("KDSVD compares neighbouring stages, and these networks pair only one: take AT or FitNet.")
        teachers = [as_map(t) for _, t in pairs]
        students = [to_channels(wide(as_map(s)), t.shape[-1]) for s, t in pairs]
        loss = self.weight * singular_vector_loss(students, teachers, self.top_k)
        return loss, {"KDSVD": loss}
