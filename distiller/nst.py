"""NST: neuron selectivity: the distribution of a stage's channel maps, independent of their order and number.

    loss = weight * sum_stages mean_b || mean_c s_c s_c^T - mean_c t_c t_c^T ||^2,   s_c = f_sc / ||f_sc||_2

This is the squared maximum mean discrepancy of the channels' maps s_c and t_c under the kernel k(x, y) = (x . y)^2.

Paper: Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017. arXiv:1707.01219.

The kernel is the paper's polynomial (degree 2, no constant); the weight is 50. The larger of two maps is
average-pooled to the smaller, as in the benchmarks; the paper interpolates. The benchmarks form all products before
the sum, B C^2 HW numbers. Here Gram matrices are formed, over channels or over positions, whichever are smaller.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.normalised import unit
from distiller.spatial import match_resolution, paired_stages, stage_pairs
from options import not_negative


def selectivity(feature: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H * W, C], each channel's map of unit L2 norm (zero where it is zero)."""
    return unit(feature.reshape(feature.shape[0], -1, feature.shape[-1]), axis=1)


def squared_mmd(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared maximum mean discrepancy of two feature maps' channels under the kernel (x . y)^2.

    Args:
        student: [B, H, W, C].
        teacher: [B, H', W', C'].

    Returns:
        Scalar: mean over the batch, in [0, 2] up to rounding.
    """
    student, teacher = (selectivity(x) for x in match_resolution(wide(student), wide(teacher)))
    if student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        # (x . y)^2 is the inner product of x x^T and y y^T: it is enough to compare the means of these small matrices.
        means = [jnp.einsum("bnc,bmc->bnm", x, x) / x.shape[2] for x in (student, teacher)]
        return jnp.mean(jnp.sum(jnp.square(means[0] - means[1]), axis=(1, 2)))

    def kernel(x, y):
        return jnp.mean(jnp.square(jnp.einsum("bni,bnj->bij", x, y)))

    return kernel(student, student) + kernel(teacher, teacher) - 2 * kernel(student, teacher)


class NST(Distiller):
    """Neuron selectivity: the distribution of the channels' maps, matched by MMD with a polynomial kernel.

    Paper: Huang, Wang, 2017, arXiv:1707.01219

    Attributes:
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py); "" pairs all stages of the shallower network.
    """

    weight: float = not_negative(50.0)
    stages: str = paired_stages()

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        loss = self.weight * sum(squared_mmd(s, t) for s, t in pairs)
        return loss, {"NST": loss}
