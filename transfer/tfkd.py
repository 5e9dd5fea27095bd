"""TfKD: a virtual teacher, made of the label."""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.target import labelled_mean
from registry import UserError
from transfer.alone import Alone


def virtual_teacher(label: jax.Array, classes: int, confidence: float, temperature: float) -> jax.Array:
    """softmax(u / T), where u is `confidence` at the label and shares the rest equally among the other classes.

    Args:
        label: [B] int32; a withheld label (-1) counts as class 0.
        classes: K.
        confidence: the teacher's probability of the label.
        temperature: dimensionless.

    Returns:
        [B, K] float32, rows sum to 1.
    """
    rest = (1 - confidence) / (classes - 1)
    right = jax.nn.one_hot(jnp.maximum(label, 0), classes, dtype=jnp.float32)
    return jax.nn.softmax((rest + (confidence - rest) * right) / temperature)


@dataclasses.dataclass(frozen=True)
class TfKD(Alone):
    """A virtual teacher that is right with a fixed confidence teaches the student: no network is needed for it.

    Paper: Yuan, Tay, Li, Wang, Feng. Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020.
    arXiv:1909.11723

        loss = (1 - alpha) * label loss + alpha * weight * mean_b KL(softmax(u / T) || softmax(z / T))

    u is `confidence` at the label and (1 - confidence) / (K - 1) elsewhere (Tf-KD_reg, equation 9). T^2 is not in.
    The released code does not soften the student's side, takes the mean over the classes too, and multiplies that by a
    factor by dataset: that is `soften_student=False`, weight = the factor / K. Rows without a label teach nothing.

    The paper's other half, Tf-KD_self, has the student trained by itself teach a fresh copy of it. Two commands do it:
    `--transfer Labels`, then `--transfer Offline --distiller SoftLogits` with that run as `--teacher_param` and its
    alpha = 0.95 as {"weight": 0.95, "ce_weight": 0.05, "temperature": 20.0}. Or one: `--transfer BornAgain` with those.

    Attributes:
        alpha: the virtual teacher's share of the loss.
        temperature: T, dimensionless.
        confidence: the virtual teacher's probability of the label.
        weight: multiplies the divergence.
        soften_student: whether the student's logits are divided by T too.
    """

    alpha: float = 0.1
    temperature: float = 20.0
    confidence: float = 0.99
    weight: float = 1.0
    soften_student: bool = True
    uses_unlabelled = False

    def __post_init__(self):
        if not (0 <= self.alpha <= 1 and 0 < self.confidence < 1):
            raise UserError(
                f"TfKD's alpha is from 0 to 1 and its confidence between them; got {self.alpha}, {self.confidence}."
            )

    def losses(self, params, state, batch, key):
        student, stats = self._student(params, state, batch)
        labels, counts = self._label_terms({"student": student}, batch, 1 - self.alpha)
        logits = wide(student.logits)
        teacher = virtual_teacher(batch.label, logits.shape[1], self.confidence, self.temperature)
        said = jax.nn.log_softmax(logits / (self.temperature if self.soften_student else 1.0))
        rows = jnp.sum(teacher * (jnp.log(teacher) - said), axis=1)
        loss = self.alpha * self.weight * labelled_mean(rows, batch.label)
        return {**labels, "TfKD": loss}, ({"student": {"batch_stats": stats}}, counts)
