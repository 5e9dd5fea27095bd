"""PKT: for each example of the batch, the probability that each other example is its neighbour.

    p_ij = (1 + cos(f_i, f_j)) / 2 / sum_k (1 + cos(f_i, f_k)) / 2
    loss = weight * mean_ij p^t_ij log(p^t_ij / p^s_ij)

Paper: Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018.
arXiv:1803.10837, with its cosine kernel.

As in the authors' code, an example counts as its own neighbour, the divergence is a mean over pairs (in the paper a
sum), and 1e-7 is added to both probabilities in the logarithm. The weight of 30000 is the benchmarks'. The features
are the embeddings; their widths may differ.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.normalised import embedding, flat, unit
from options import not_negative


def neighbour_probabilities(feature: jax.Array) -> jax.Array:
    """Conditional probabilities of the cosine kernel.

    Args:
        feature: [B, ...], any float type; computed in float32 (float64 stays). A zero row has cosine 0 with all.

    Returns:
        [B, B], rows sum to 1.
    """
    feature = unit(flat(feature))
    similarity = (feature @ feature.T + 1) / 2
    return similarity / jnp.sum(similarity, axis=1, keepdims=True)


def pkt_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Divergence of the neighbour probabilities of [B, D] and [B, D']. Scalar: mean over the B^2 pairs. Natural log."""
    s, t = neighbour_probabilities(student), neighbour_probabilities(teacher)
    # mean t log((t + e) / (s + e)) + mean (s - t). The second mean is 0. It removes the first-order terms, which would
    # cancel and lose digits in float32.
    change = (s - t) / (t + 1e-7)
    return jnp.mean(t * (change - jnp.log1p(change)) + 1e-7 * change)


class PKT(Distiller):
    """Probabilities of being each other's neighbour in the batch, KL divergence.

    Paper: Passalis, Tefas, ECCV 2018, arXiv:1803.10837
    """

    weight: float = not_negative(30000.0)
    least_batch: ClassVar[int] = 2

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss = self.weight * pkt_loss(embedding(student, "student"), embedding(teacher, "teacher"))
        return loss, {"PKT": loss}
