"""GradAT: how the teacher's answer would change with each pixel.

    J = d cross-entropy(label) / d image
    normalize:      loss = weight * mean_{b,hwc} (J_s / ||J_s||_2 - J_t / ||J_t||_2)^2
    not normalize:  loss = weight * mean_b ||J_s - J_t||_2^2

Paper: Zagoruyko, Komodakis. Paying More Attention to Attention. ICLR 2017. arXiv:1612.03928, section 3.2; with the
logit of the label's class for the cross-entropy (`of="logit"`): Czarnecki et al. Sobolev Training for Neural Networks.
NIPS 2017. arXiv:1706.04859, as Knowledge-Distillation-Zoo has it.

The paper compares gradients as they are; unit gradients, their mean over pixels and the weight 20 are the Zoo's. The
gradient is that at the image as each network sees it, normalised with its own statistics. Images without a label are
left out. In training mode batch norm's statistics are constants of J (docs/architecture.md).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.maps import masked_mean, unit
from registry import UserError


def label_gradient(outputs, label: jax.Array, of: str = "loss") -> jax.Array:
    """Gradient at the input of each image's own cross-entropy, or of its label's logit.

    Args:
        outputs: with gradients at `input`.
        label: [B] int32, at least 0.
        of: "loss" or "logit".

    Returns:
        [B, H, W, C], `wide`; differentiable by the network's weights, through the softmax too.
    """
    if of not in ("loss", "logit"):
        raise UserError(f"'of' is 'loss' or 'logit'; got {of!r}.")
    logits = wide(outputs.logits)
    cotangent = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    if of == "loss":
        cotangent = jax.nn.softmax(logits) - cotangent
    return wide(outputs.gradients(cotangent)["input"])


def gradient_distance(student: jax.Array, teacher: jax.Array, normalize: bool = True) -> jax.Array:
    """Squared difference of input gradients [B, H, W, C] of each image: [B].

    Sum over pixels and channels; where normalised, of unit gradients, and the mean.
    """
    student, teacher = matched(student, teacher)
    if not normalize:
        return jnp.sum(jnp.square(student - teacher), axis=(1, 2, 3))
    return jnp.mean(jnp.square(unit(student, (1, 2, 3)) - unit(teacher, (1, 2, 3))), axis=(1, 2, 3))


class GradAT(Distiller):
    """Gradients of the label's loss at the input pixels.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928, section 3.2

    Attributes:
        normalize: compare directions, as the weight supposes; False compares the gradients as they are.
        of: the gradient of the "loss" or of the label's "logit".
    """

    gradient_taps = ("input",)
    weight: float = 20.0
    normalize: bool = True
    of: str = "loss"

    @nn.compact
    def __call__(self, student, teacher, batch):
        label = jnp.maximum(batch.label, 0)
        pair = (label_gradient(outputs, label, self.of) for outputs in (student, teacher))
        loss = self.weight * masked_mean(gradient_distance(*pair, self.normalize), batch.label >= 0)
        return loss, {"GradAT": loss}
