"""CTKD: softened probabilities at a temperature that is learned against the student, from easy to hard.

    loss = weight * mean_b T_b^2 * KL(t_b || s_b),   t, s = softmax(z / T),   T = t_start + t_range * sigmoid(theta)

The student descends this loss and theta climbs it: on the way back its gradient is multiplied by -lambda, which rises
from 0 to 1 with the cosine (or in a straight line) over the first `loops` epochs.

Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation. AAAI 2023.
arXiv:2211.16231.

theta is one number, 1 at first (T = 15.6): the paper's global form, the only one released. With `instance` it is the
paper's other form, a two-layer perceptron of the teacher's and the student's probabilities, one theta an image; its
width (256) and its zero start are choices made here, and its inputs are behind stop_gradient, so that only theta is
adversarial. Epochs are counted from 1, as in the released code. theta decays with the other weights.
The released linear schedule stops one loop early, at 1 - 1/loops; here it goes on to 1.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import kl_divergence
from registry import UserError


def reverse_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    """`x` unchanged, whose gradient is multiplied by -`factor`."""
    fixed = jax.lax.stop_gradient(x)
    return fixed - factor * (x - fixed)


def curriculum(epoch: jax.Array, loops: int, schedule: str = "cosine") -> jax.Array:
    """lambda in (0, 1], the strength of the reversal in the epoch that `epoch` (from 0) lies in.

    Args:
        epoch: float32 scalar.
        loops: epochs after which lambda is 1.
        schedule: "cosine" or "linear".
    """
    progress = jnp.minimum((jnp.floor(epoch) + 1.0) / loops, 1.0)
    return 0.5 * (1.0 - jnp.cos(jnp.pi * progress)) if schedule == "cosine" else progress


class CTKD(Distiller):
    """Softened probabilities at a temperature that learns to make them hard to match.

    Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023, arXiv:2211.16231

    Attributes:
        t_start: the temperature's lower bound.
        t_range: how far above it the temperature may lie.
        loops: epochs until the reversed gradient has its full strength.
        schedule: of that strength, "cosine" or "linear".
        instance: one temperature an image instead of one for all.
        hidden: width of the perceptron (with `instance`).
    """

    weight: float = 0.9
    ce_weight: float = 0.1
    t_start: float = 1.0
    t_range: float = 20.0
    loops: int = 10
    schedule: str = "cosine"
    instance: bool = False
    hidden: int = 256
    adversarial: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        if self.schedule not in ("cosine", "linear"):
            raise UserError(f"schedule='{self.schedule}': CTKD has 'cosine' and 'linear'.")
        logits = matched(student.logits, teacher.logits)
        theta = self._instance(*logits) if self.instance else self._global(logits[0].dtype)
        strength = curriculum(batch.epoch, self.loops, self.schedule).astype(theta.dtype)
        temperature = self.t_start + self.t_range * jax.nn.sigmoid(reverse_gradient(theta, strength))
        loss = self.weight * kl_divergence(*logits, temperature)
        return loss, {"CTKD": loss}

    def _global(self, dtype):
        return self.param("theta", nn.initializers.ones, (), jnp.float32).astype(dtype)

    def _instance(self, student, teacher):
        x = jnp.concatenate([jax.nn.softmax(teacher), jax.nn.softmax(student)], axis=1)
        x = nn.relu(nn.Dense(self.hidden, dtype=x.dtype, name="hidden_layer")(jax.lax.stop_gradient(x)))
        return nn.Dense(1, dtype=x.dtype, kernel_init=nn.initializers.zeros, name="theta_layer")(x)
