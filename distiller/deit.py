"""DeiT: the class that the teacher predicts, taught to the distillation token of a vision transformer.

    hard:  loss = weight * mean_b -log softmax(z_d)_m,              m the teacher's class
    soft:  loss = weight * T^2 * mean_b sum_k t_k (log t_k - log s_k),   t = softmax(z_t / T), s = softmax(z_d / T)
    label loss: ce_weight * CE(softmax(z_c), y);   z_c, z_d the logits of the class token and the distillation token

Paper: Touvron, Cord, Douze, Massa, Sablayrolles, Jégou. Training Data-efficient Image Transformers & Distillation
through Attention. ICML 2021. arXiv:2012.12877.

The student is a ViT with `distilled=True`. The label loss reads the class token's head (`label_outputs`), and the
distillation loss reads the distillation token's head. Tests read the mean of both heads' logits. The defaults are the
paper's best, the hard form with both weights 1/2. The paper's soft form has weight 0.1, ce_weight 0.9 and T = 3. The
released code also divides the soft loss by the number of classes; the paper's formula does not. `released=True` follows
the code.
"""

import flax.linen as nn

from distiller.base import Distiller
from distiller.soft_logits import hard_cross_entropy, kl_divergence
from options import not_negative, positive

CLASS, DISTILL = "class_logits", "distill_logits"  # taps


class DeiT(Distiller):
    """Class that the teacher predicts, or its softened probabilities, for a ViT's distillation token.

    Paper: Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, ICML 2021, arXiv:2012.12877

    Attributes:
        hard: the teacher's class; else its softened probabilities.
        temperature: T of the soft form, dimensionless.
        released: the soft form is divided by the number of classes, as in the released code.
    """

    weight: float = not_negative(0.5)
    ce_weight: float = not_negative(0.5)
    hard: bool = True
    temperature: float = positive(3.0)
    released: bool = False

    @nn.nowrap
    def label_outputs(self, student):
        return student.replace(logits=_head(student, CLASS))

    @nn.compact
    def __call__(self, student, teacher, batch):
        logits = _head(student, DISTILL), teacher.logits
        if self.hard:
            loss = hard_cross_entropy(*logits)
        else:
            loss = kl_divergence(*logits, self.temperature)
            loss = loss / logits[0].shape[1] if self.released else loss
        loss = self.weight * loss
        return loss, {"DeiT": loss}


def _head(student, tap):
    if tap not in student.features:
        raise ValueError(
            f"DeiT teaches a student with two heads (taps {CLASS}, {DISTILL}); this one has "
            f"{sorted(student.features) or 'logits only'}.\n"
            "Take a ViT with --config.student_options.distilled=True, or SoftLogits with hard=True."
        )
    return student.features[tap]
