"""CTKD: softened class probabilities at a learned temperature that makes them harder and harder to match.

    loss = weight * mean_b T_b^2 * KL(t_b || s_b),   t, s = softmax(z / T),   T = t_start + t_range * sigmoid(theta)

The student descends this loss and theta climbs it: the gradient of theta is multiplied by -lambda. lambda rises from 0
to 1 over the first `loops` epochs, by a cosine or a straight line.

Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation. AAAI 2023.
arXiv:2211.16231.

The default is the paper's global form, the only released one: theta is one number that starts at 1 (T = 15.6).
`instance` is the paper's other form: a two-layer perceptron of the teacher's and the student's probabilities gives one
theta for each image. Its width (256) and its zero start are this library's choices. Its inputs are behind
stop_gradient, so the reversed gradient reaches only the perceptron. Epochs are counted from 1, as in the released code.
Weight decay applies to theta, too. The released linear schedule ends one loop early, at 1 - 1/loops; here it ends at 1.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import kl_divergence
from distiller.target import ramp
from options import not_negative, one_of, only_with, positive


def reverse_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns `x`; the gradient that flows back is multiplied by -`factor`."""
    fixed = jax.lax.stop_gradient(x)
    return fixed - factor * (x - fixed)


def curriculum(epoch: jax.Array, loops: int, schedule: str = "cosine") -> jax.Array:
    """lambda in (0, 1], the strength of the reversal.

    Args:
        epoch: float32 scalar, from 0; the whole epochs count.
        loops: epochs after which lambda is 1.
        schedule: "cosine" or "linear".
    """
    progress = ramp(epoch, loops)
    return 0.5 * (1.0 - jnp.cos(jnp.pi * progress)) if schedule == "cosine" else progress


class CTKD(Distiller):
    """Softened probabilities at a learned temperature that makes them hard to match.

    Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023, arXiv:2211.16231

    Attributes:
        t_start: the temperature's lower bound.
        t_range: width of the temperature's range above `t_start`.
        loops: epochs until the reversed gradient has its full strength.
        schedule: how that strength rises, "cosine" or "linear".
        instance: one temperature for each image instead of one for all images.
        hidden: width of the perceptron (with `instance`).
    """

    weight: float = not_negative(0.9)
    ce_weight: float = not_negative(0.1)
    t_start: float = positive(1.0)
    t_range: float = not_negative(20.0)
    loops: int = positive(10)
    schedule: str = one_of("cosine", "linear")
    instance: bool = False
    hidden: int = only_with(positive(256), instance=(True,))
    adversarial: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student, teacher, batch):
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
