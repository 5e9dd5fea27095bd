"""GradAT: the gradient of the teacher's label loss at each input pixel.

    J = d cross-entropy(label) / d image
    normalize:      loss = weight * mean_{b,hwc} (J_s / ||J_s||_2 - J_t / ||J_t||_2)^2
    not normalize:  loss = weight * mean_b ||J_s - J_t||_2^2

Paper: Zagoruyko, Komodakis. Paying More Attention to Attention. ICLR 2017. arXiv:1612.03928, section 3.2.
With `of="logit"` J is the gradient of the label's logit: Czarnecki et al. Sobolev Training for Neural Networks. NIPS
2017. arXiv:1706.04859, in the form of Knowledge-Distillation-Zoo.

The paper compares the gradients without normalisation. Unit gradients, their mean over pixels and the weight 20 are
the Zoo's. J is taken at the image after each network's own input normalisation. Images without a label are left out.
In training mode batch norm's statistics are constants of J (docs/architecture.md).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.maps import masked_mean
from distiller.normalised import unit
from options import not_negative, one_of


def label_gradient(outputs, label: jax.Array, of: str = "loss") -> jax.Array:
    """Gradient at the input of each image's own cross-entropy, or of its label's logit.

    Args:
        outputs: with gradients at `input`.
        label: [B] int32, at least 0.
        of: "loss" or "logit".

    Returns:
        [B, H, W, C] float32 (float64 stays); differentiable with respect to the network's weights, also through the
        softmax.
    """
    logits = wide(outputs.logits)
    cotangent = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    if of == "loss":
        cotangent = jax.nn.softmax(logits) - cotangent
    return wide(outputs.gradients(cotangent)["input"])


def gradient_distance(student: jax.Array, teacher: jax.Array, normalize: bool = True) -> jax.Array:
    """Squared difference of each image's input gradients.

    Args:
        student, teacher: [B, H, W, C].
        normalize: each image's gradients have unit L2 norm.

    Returns:
        [B]: mean over pixels and channels with `normalize`, else their sum.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    if not normalize:
        return jnp.sum(jnp.square(student - teacher), axis=(1, 2, 3))
    return jnp.mean(jnp.square(unit(student, (1, 2, 3)) - unit(teacher, (1, 2, 3))), axis=(1, 2, 3))


class GradAT(Distiller):
    """Gradients of the label's loss at the input pixels.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928, section 3.2

    Attributes:
        normalize: compare gradients of unit norm (the default weight is for these); False: without normalisation.
        of: gradients of the "loss" or of the label's "logit".
    """

    gradient_taps = ("input",)
    needs_labels = True
    weight: float = not_negative(20.0)
    normalize: bool = True
    of: str = one_of("loss", "logit")

    @nn.compact
    def __call__(self, student, teacher, batch):
        label = jnp.maximum(batch.label, 0)
        pair = (label_gradient(outputs, label, self.of) for outputs in (student, teacher))
        loss = self.weight * masked_mean(gradient_distance(*pair, self.normalize), batch.label >= 0)
        return loss, {"GradAT": loss}
