"""DKD: the teacher's confidence in the label and, decoupled from it, its distribution over the other classes.

    loss = weight * ramp * T^2 * mean_b (alpha * TCKD_b + beta * NCKD_b)
    TCKD = KL((t_y, 1 - t_y) || (s_y, 1 - s_y)),   t, s = softmax(z / T),   y the label
    NCKD = KL(t' || s'),                           t', s' = softmax(z / T) over the classes other than y
    ramp = min((whole epochs done + 1) / warmup_epochs, 1)

Paper: Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation. CVPR 2022. arXiv:2203.08679.

Both terms are computed from logits. The reference takes the logarithm of a probability that may be 0, and masks the
label by subtracting 1000 from its logit. The mean is over the labelled rows of the batch.

On CIFAR-100 beta is 8 for ResNet32x4 and similar teachers, 2 for ResNet56 to ResNet20 and ResNet110 to ResNet32, 6 for
VGG13 and for pairs of WRNs. ImageNet recipes have temperature 1, warmup_epochs 1, beta 0.5 (ResNet34 to ResNet18) or 2
(ResNet50 to MobileNetV1).

`standardize` is LSKD's (soft_logits.py). LSKD's paper has weight 9 and temperature 2. LSKD's released script amounts to
alpha 9, beta 81 and temperature 4: the script sets beta from the raised alpha and reads another method's temperature.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import standardize
from distiller.target import labelled_mean, ramp, refuse_two_classes, split_target
from options import not_negative, positive


def decoupled_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The two divergences of every row, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        temperature: dimensionless, above 0.

    Returns:
        (TCKD [B], NCKD [B]), each summed over classes. Natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)

    def logs(logits):
        target, others = split_target(logits / temperature, label)
        binary = jnp.concatenate([target, jax.nn.logsumexp(others, axis=1, keepdims=True)], axis=1)
        return jax.nn.log_softmax(binary), jax.nn.log_softmax(others)

    return tuple(
        temperature**2 * jnp.sum(jnp.exp(t) * (t - s), axis=1)
        for s, t in zip(logs(student), logs(teacher), strict=True)
    )


class DKD(Distiller):
    """Target-class and non-target-class knowledge, decoupled and weighted separately.

    Paper: Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv:2203.08679

    Attributes:
        alpha: weight of the target-class divergence.
        beta: weight of the non-target-class divergence.
        temperature: T, dimensionless.
        warmup_epochs: epochs over which the loss rises to its weight.
        standardize: both networks' logits are standardised per row first (LSKD).
    """

    needs_labels = True
    alpha: float = not_negative(1.0)
    beta: float = not_negative(8.0)
    temperature: float = positive(4.0)
    warmup_epochs: int = not_negative(20)
    standardize: bool = False

    @nn.compact
    def __call__(self, student, teacher, batch):
        refuse_two_classes("DKD", student.logits)
        logits = student.logits, teacher.logits
        if self.standardize:
            logits = [standardize(z) for z in logits]
        target, others = decoupled_rows(*logits, batch.label, self.temperature)
        factor = self.weight * ramp(batch.epoch, self.warmup_epochs).astype(target.dtype)
        terms = {
            "DKD_target": factor * self.alpha * labelled_mean(target, batch.label),
            "DKD_others": factor * self.beta * labelled_mean(others, batch.label),
        }
        return sum(terms.values()), terms
