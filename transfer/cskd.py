"""CSKD: another image of the same class teaches.

    loss = L(x) + weight * T^2 * mean_b KL(softmax(z(x') / T) || softmax(z(x) / T))

L is the task's loss on labels, z(x) are the student's logits for image x, and x' is the view "partner": a random other
image of x's class. The prediction for x' is a constant.

Paper: Yun, Park, Lee, Shin. Regularizing Class-wise Predictions via Self-knowledge Distillation. CVPR 2020.
arXiv:2003.13964.

As in the released code the prediction for x' is made in train mode, so the batch statistics move twice a step.
`weight` is the paper's lambda_cls (1 to 4 in the paper). The partner of an image without a label is
another view of the same image.
"""

import dataclasses

import jax

from distiller.soft_logits import kl_divergence
from options import not_negative, positive
from transfer.alone import Alone


@dataclasses.dataclass(frozen=True)
class CSKD(Alone):
    """The student's own prediction for another image of the same class teaches it.

    Paper: Yun, Park, Lee, Shin, CVPR 2020, arXiv:2003.13964

    Attributes:
        temperature: T, dimensionless.
        weight: of the divergence.
    """

    temperature: float = positive(4.0)
    weight: float = not_negative(1.0)
    views = ("weak", "partner")

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        partner = jax.lax.stop_gradient(student.views[0].logits)
        labels, counts = self._label_terms({"student": student}, batch)
        loss = self.weight * kl_divergence(student.logits, partner, self.temperature)
        return {**labels, "CSKD": loss}, (extra, counts)
