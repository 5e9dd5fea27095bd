"""ABKD: the teacher's class probabilities under a divergence with two exponents that weight the errors.

    loss = weight * mean_b D(t_b, s_b),   t, s = softmax(z / T)
    D(t, s) = -1 / (alpha beta) sum_k [t^alpha s^beta - a t^(alpha + beta) - b s^(alpha + beta)]
    a = alpha / (alpha + beta),   b = beta / (alpha + beta)

Paper: Wang, Yang, Wang, Wang, Xu, Huang. ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
Distillation via alpha-beta-Divergence. ICML 2025. arXiv:2505.04560.

A small alpha gives weight to the classes with large errors, a large beta to the classes of which the student is sure.
`divergence` names special cases: "kl" is alpha 1, beta 0 (KL(t || s)); "reverse-kl" is alpha 0, beta 1; "hellinger" is
alpha = beta = 1/2, 2 sum_k (sqrt t - sqrt s)^2. "jensen-shannon" is (KL(t || m) + KL(s || m)) / 2 with m = (t + s) / 2.
It is not an alpha-beta divergence; the paper compares both kinds. T^2 is not in. The defaults are those of the authors'
example for ResNet56 to ResNet20.

If an exponent or the sum of both is 0, D is the limit of the formula. The released code returns this limit times alpha
(or beta). Both values agree if that factor is 1. The division by alpha beta enlarges rounding errors of float32: an
exponent close to 0 gives a less exact D than 0 itself.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from options import not_negative, one_of, positive

SPECIAL = {"kl": (1.0, 0.0), "reverse-kl": (0.0, 1.0), "hellinger": (0.5, 0.5)}  # name -> alpha, beta


def alpha_beta_rows(log_teacher: jax.Array, log_student: jax.Array, alpha: float, beta: float) -> jax.Array:
    """The alpha-beta divergence of every row.

    Args:
        log_teacher, log_student: [B, K], logarithms of probabilities, of one float type.
        alpha, beta: the exponents. With a negative exponent D grows without bound when a probability goes to 0.

    Returns:
        [B], summed over classes, natural log.
    """
    t, s, both = log_teacher, log_student, alpha + beta
    if alpha == 0 and beta == 0:
        terms = jnp.square(s - t) / 2
    elif both == 0:
        terms = (alpha * (s - t) + jnp.exp(alpha * (t - s)) - 1) / alpha**2
    elif beta == 0:
        terms = (jnp.exp(alpha * t) * (alpha * (t - s) - 1) + jnp.exp(alpha * s)) / alpha**2
    elif alpha == 0:
        terms = (jnp.exp(beta * s) * (beta * (s - t) - 1) + jnp.exp(beta * t)) / beta**2
    else:
        mixed = jnp.exp(alpha * t + beta * s)
        terms = (alpha / both * jnp.exp(both * t) + beta / both * jnp.exp(both * s) - mixed) / (alpha * beta)
    return jnp.sum(terms, axis=1)


def jensen_shannon_rows(log_teacher: jax.Array, log_student: jax.Array) -> jax.Array:
    """(KL(t || m) + KL(s || m)) / 2 of every row, m the mean of t and s.

    Args:
        log_teacher, log_student: [B, K], logarithms of probabilities, of one float type.

    Returns:
        [B] in [0, log 2], summed over classes, natural log.
    """
    middle = jnp.logaddexp(log_teacher, log_student) - jnp.log(2.0).astype(log_teacher.dtype)
    halves = (jnp.sum(jnp.exp(x) * (x - middle), axis=1) for x in (log_teacher, log_student))
    return sum(halves) / 2


class ABKD(Distiller):
    """Class probabilities under an alpha-beta divergence: KL, reverse KL, Hellinger and what lies between them.

    Paper: Wang, Yang, Wang, Wang, Xu, Huang, ICML 2025, arXiv:2505.04560

    Attributes:
        divergence: "alpha-beta", or the name of a special case, which ignores `alpha` and `beta`.
        alpha: exponent of the teacher's probabilities.
        beta: exponent of the student's probabilities.
        temperature: T, dimensionless.
    """

    weight: float = not_negative(32.0)
    divergence: str = one_of("alpha-beta", "kl", "reverse-kl", "hellinger", "jensen-shannon")
    alpha: float = not_negative(0.8)
    beta: float = not_negative(0.3)
    temperature: float = positive(4.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        logits = matched(student.logits, teacher.logits)
        s, t = (jax.nn.log_softmax(z / self.temperature) for z in logits)
        if self.divergence == "jensen-shannon":
            rows = jensen_shannon_rows(t, s)
        else:
            rows = alpha_beta_rows(t, s, *SPECIAL.get(self.divergence, (self.alpha, self.beta)))
        loss = self.weight * jnp.mean(rows)
        return loss, {"ABKD": loss}
