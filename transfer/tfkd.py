"""TfKD: a virtual teacher, computed from the label, teaches the student.

    loss = (1 - alpha) * L + alpha * weight * mean_b KL(softmax(u / T) || softmax(z / T))

L is the task's loss on labels, z are the student's logits, and u is `confidence` at the label and
(1 - confidence) / (K - 1) elsewhere (Tf-KD_reg, equation 9). T^2 is not in.

Paper: Yuan, Tay, Li, Wang, Feng. Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020.
arXiv:1909.11723.

The released code does not soften the student's side, takes the mean over the classes too, and multiplies the result by
a factor that depends on the dataset. `soften_student=False` with weight = factor / K gives the same loss. Rows without
a label teach nothing.

In the paper's second half, Tf-KD_self, a student that was trained alone teaches a fresh copy of itself. Two commands do
that: `--transfer Labels`, then `--transfer Offline --distiller SoftLogits` with the first run as `--teacher_param` and
alpha = 0.95 as {"weight": 0.95, "ce_weight": 0.05, "temperature": 20.0}. `--transfer BornAgain` with these options does
the same in one command.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.target import labelled_mean
from options import between, not_negative, positive
from transfer.alone import Alone


def virtual_teacher(label: jax.Array, classes: int, confidence: float, temperature: float) -> jax.Array:
    """softmax(u / T), where u is `confidence` at the label and (1 - confidence) / (K - 1) elsewhere.

    Args:
        label: [B] int32; a withheld label (-1) counts as class 0.
        classes: K.
        confidence: the teacher's probability of the label.
        temperature: dimensionless.

    Returns:
        [B, K] float32; each row sums to 1.
    """
    rest = (1 - confidence) / (classes - 1)
    right = jax.nn.one_hot(jnp.maximum(label, 0), classes, dtype=jnp.float32)
    return jax.nn.softmax((rest + (confidence - rest) * right) / temperature)


@dataclasses.dataclass(frozen=True)
class TfKD(Alone):
    """A virtual teacher with a fixed confidence in the label teaches the student; no second network is needed.

    Paper: Yuan, Tay, Li, Wang, Feng, CVPR 2020, arXiv:1909.11723

    Attributes:
        alpha: the virtual teacher's share of the loss.
        temperature: T, dimensionless.
        confidence: the virtual teacher's probability of the label.
        weight: multiplies the divergence.
        soften_student: whether the student's logits are divided by T too.
    """

    alpha: float = between(0, 1, 0.1)
    temperature: float = positive(20.0)
    confidence: float = between(0, 1, 0.99, with_low=False, with_high=False)
    weight: float = not_negative(1.0)
    soften_student: bool = True
    uses_unlabelled = False

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        labels, counts = self._label_terms({"student": student}, batch, 1 - self.alpha)
        logits = wide(student.logits)
        teacher = virtual_teacher(batch.label, logits.shape[1], self.confidence, self.temperature)
        said = jax.nn.log_softmax(logits / (self.temperature if self.soften_student else 1.0))
        rows = jnp.sum(teacher * (jnp.log(teacher) - said), axis=1)
        loss = self.alpha * self.weight * labelled_mean(rows, batch.label)
        return {**labels, "TfKD": loss}, (extra, counts)
