"""DDGSD: two distorted versions of an image teach each other.

    loss = L(a) + L(b) + weight * T^2 * mean [KL(p_b || p_a) + KL(p_a || p_b)]
           + mmd_weight * |mean_b f(a) - mean_b f(b)|^2

L is the task's loss on labels; a and b are two draws of the usual augmentation; p are predictions softened by T, and f
is the embedding.

Paper: Xu, Liu. Data-Distortion Guided Self-Distillation for Deep Neural Networks. AAAI 2019.
doi:10.1609/aaai.v33i01.33015565.

The authors published no code; weights 1 and 0.0005 and T = 3 are those of a public reimplementation. `weight` and
`mmd_weight` are the paper's lambda and mu. As in mutual learning each divergence teaches one side only: the target,
which is the first distribution, is a constant. The mean discrepancy has the linear kernel.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.base import matched
from distiller.normalised import embedding
from distiller.soft_logits import kl_divergence
from options import not_negative, positive
from transfer.alone import Alone


def mean_discrepancy(a: jax.Array, b: jax.Array) -> jax.Array:
    """The squared maximum mean discrepancy with a linear kernel: |mean_b a - mean_b b|^2.

    Args:
        a, b: features [B, D].

    Returns:
        Scalar: the sum over D.
    """
    a, b = matched(a, b)
    return jnp.sum(jnp.square(jnp.mean(a, axis=0) - jnp.mean(b, axis=0)))


@dataclasses.dataclass(frozen=True)
class DDGSD(Alone):
    """The student's predictions for two distorted versions of an image teach each other.

    Paper: Xu, Liu, AAAI 2019, doi:10.1609/aaai.v33i01.33015565

    Attributes:
        temperature: T, dimensionless.
        weight: weight of the divergences.
        mmd_weight: weight of the mean discrepancy.
    """

    temperature: float = positive(3.0)
    weight: float = not_negative(1.0)
    mmd_weight: float = not_negative(5e-4)
    views = ("weak", "weak")

    def losses(self, params, state, batch, key):
        a, extra = self._student(params, state, batch)
        b, fixed = a.views[0], jax.lax.stop_gradient
        labels, counts = self.task.loss(a, batch)
        labels = labels + self.task.loss(b, batch)[0]
        pairs = ((a.logits, fixed(b.logits)), (b.logits, fixed(a.logits)))
        terms = {
            self.task.term: labels,
            "DDGSD_logits": self.weight * sum(kl_divergence(s, t, self.temperature) for s, t in pairs),
            "DDGSD_features": self.mmd_weight * mean_discrepancy(embedding(a, "student"), embedding(b, "student")),
        }
        return terms, (extra, counts)
