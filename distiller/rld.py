"""RLD: the teacher's confidence, given to the labelled class, and its distribution over the classes below the label.

    loss = weight * ramp * mean_b (alpha * SCD_b + beta * MCD_b)
    SCD = U^2 * KL((t_m, 1 - t_m) || (s_y, 1 - s_y)),   t, s = softmax(z / U),   m the teacher's class, y the label
    MCD = T^2 * KL(t' || s'),   t', s' = softmax(z / T) over the classes whose teacher logit is below the label's
    ramp = min((whole epochs done + 1) / warmup_epochs, 1)

Paper: Sun, Chen, Lyu, Chen, Chen, Wang. Knowledge Distillation with Refined Logits. arXiv:2408.07703.

A teacher that is wrong about an image still teaches its confidence and the order of the classes below the label, but
does not contradict the label. MCD is 0 for an image where no class is below the label. T is `temperature`, U is
`sample_temperature`. The means are over the labelled rows of the batch. `standardize` is LSKD's (soft_logits.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.soft_logits import standardize
from distiller.target import labelled_mean, ramp, split_target
from options import not_negative, positive


def sample_confidence_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """KL of the teacher's confidence in its predicted class and the student's confidence in the label, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], K at least 2, any float type; computed in float32 (float64 stays).
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        temperature: dimensionless, above 0.

    Returns:
        [B], natural log.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)

    def logs(logits, chosen):
        target, others = split_target(logits / temperature, chosen)
        return jax.nn.log_softmax(jnp.concatenate([target, jax.nn.logsumexp(others, axis=1, keepdims=True)], axis=1))

    s, t = logs(student, label), logs(teacher, jnp.argmax(teacher, axis=1))
    return temperature**2 * jnp.sum(jnp.exp(t) * (t - s), axis=1)


def masked_correlation_rows(
    student_logits: jax.Array, teacher_logits: jax.Array, label: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """KL(teacher || student) over the classes whose teacher logit is below the label's, times T^2.

    Args:
        student_logits, teacher_logits: [B, K], K at least 2, any float type; computed in float32 (float64 stays).
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        temperature: dimensionless, above 0.

    Returns:
        [B], summed over classes, natural log; 0 where no class is left.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    kept = teacher < split_target(teacher, label)[0]
    some = jnp.any(kept, axis=1)

    def logs(logits):  # a row without a kept class keeps all classes here; the last line gives 0 for it
        return jax.nn.log_softmax(jnp.where(kept | ~some[:, None], logits / temperature, -1e30))

    s, t = logs(student), logs(teacher)
    return temperature**2 * jnp.sum(jnp.where(kept, jnp.exp(t) * (t - s), 0.0), axis=1)


class RLD(Distiller):
    """Confidence of the teacher, moved to the label, and its distribution over the classes below the label.

    Paper: Sun, Chen, Lyu, Chen, Chen, Wang, arXiv:2408.07703

    Attributes:
        alpha: weight of the confidence (SCD).
        beta: weight of the classes below the label (MCD).
        temperature: T, of the classes below the label, dimensionless.
        sample_temperature: U, of the confidence, dimensionless.
        warmup_epochs: epochs over which the loss rises to its weight.
        standardize: both networks' logits are standardised per row first (LSKD).
    """

    needs_labels = True
    alpha: float = not_negative(1.0)
    beta: float = not_negative(8.0)
    temperature: float = positive(4.0)
    sample_temperature: float = positive(4.0)
    warmup_epochs: int = not_negative(20)
    standardize: bool = False

    @nn.compact
    def __call__(self, student, teacher, batch):
        logits = student.logits, teacher.logits
        if self.standardize:
            logits = [standardize(z) for z in logits]
        confidence = sample_confidence_rows(*logits, batch.label, self.sample_temperature)
        below = masked_correlation_rows(*logits, batch.label, self.temperature)
        factor = self.weight * ramp(batch.epoch, self.warmup_epochs).astype(below.dtype)
        terms = {
            "RLD_confidence": factor * self.alpha * labelled_mean(confidence, batch.label),
            "RLD_below": factor * self.beta * labelled_mean(below, batch.label),
        }
        return sum(terms.values()), terms
