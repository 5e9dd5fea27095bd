"""CRLD: softened class probabilities within and across two views of each image, where the teacher is sure.

    loss = weight * mean_b (within * W_b (d(w, w) + d(s, s)) + cross * S_b (d(w, s) + d(s, w)))
    d(a, b) = T^2 KL(teacher on view a || student on view b),   w, s = the weak and the strong view
    W = [max_k t_k(w) >= weak_threshold],   S = [max_k t_k(s) >= strong_threshold],   t = softmax(z) of the teacher

Paper: Zhang, Liu, Cai, Ma. Cross-View Consistency Regularisation for Knowledge Distillation. ACM MM 2024.
arXiv:2412.16493.

The weak view is the usual augmentation, the strong one has RandAugment on top. The mean is over all images of the
batch, including those that W or S leaves out. Weights, thresholds and T = 4 are the authors' for CIFAR-100. Deviation:
the authors' label loss covers both views; here the step adds the label loss on the weak view only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from options import between, not_negative, positive


def view_losses(
    student: tuple[jax.Array, jax.Array],
    teacher: tuple[jax.Array, jax.Array],
    temperature: float = 4.0,
    weak_threshold: float = 0.9,
    strong_threshold: float = 0.2,
) -> tuple[jax.Array, jax.Array]:
    """The masked divergences within and across the views.

    Args:
        student, teacher: logits [B, K] of the weak and the strong view, any float type; computed in float32 (float64
            stays).
        temperature: dimensionless, above 0; T^2 is in.
        weak_threshold, strong_threshold: least probability of the teacher's class on the weak and the strong view.

    Returns:
        (within, cross), scalars: sum over classes, mean over the batch. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = zip(*(matched(s, t) for s, t in zip(student, teacher, strict=True)), strict=True)
    logs, targets = ([jax.nn.log_softmax(z / temperature) for z in logits] for logits in (student, teacher))
    sure = [jnp.max(jax.nn.softmax(z), axis=1) for z in teacher]

    def divergence(a, b):
        return temperature**2 * jnp.sum(jnp.exp(targets[a]) * (targets[a] - logs[b]), axis=1)

    within = jnp.where(sure[0] >= weak_threshold, divergence(0, 0) + divergence(1, 1), 0.0)
    cross = jnp.where(sure[1] >= strong_threshold, divergence(0, 1) + divergence(1, 0), 0.0)
    return jnp.mean(within), jnp.mean(cross)


class CRLD(Distiller):
    """Softened class probabilities within and across a weak and a strong view, where the teacher is sure.

    Paper: Zhang, Liu, Cai, Ma, ACM MM 2024, arXiv:2412.16493

    Attributes:
        within: weight of the divergences within a view.
        cross: weight of the divergences across the views.
        weak_threshold: least probability of the teacher's class on the weak view.
        strong_threshold: least probability of the teacher's class on the strong view.
        temperature: T, dimensionless.
    """

    within: float = not_negative(2.0)
    cross: float = not_negative(0.5)
    weak_threshold: float = between(0.0, 1.0, 0.9)
    strong_threshold: float = between(0.0, 1.0, 0.2)
    temperature: float = positive(4.0)
    views = ("weak", "strong")

    @nn.compact
    def __call__(self, student, teacher, batch):
        both = [tuple(view.logits for view in (x, *x.views)) for x in (student, teacher)]
        within, cross = view_losses(*both, self.temperature, self.weak_threshold, self.strong_threshold)
        terms = {"CRLD_within": self.weight * self.within * within, "CRLD_cross": self.weight * self.cross * cross}
        return sum(terms.values()), terms
