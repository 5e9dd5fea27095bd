"""LwM: GradCAM maps of the label's class, scaled to unit length.

    q = vec(GradCAM) / ||.||_2,   loss = weight * mean_{b,hw} |q_s - q_t|

Paper: Dhar, Singh, Peng, Wu, Chellappa. Learning without Memorizing. CVPR 2019. arXiv:1811.08051, section 3.2.

The paper's method learns new classes without old images; this is its attention distillation loss. The paper sums over
positions. The mean, the weight 0.4 and the label's class are those of Knowledge-Distillation-Zoo. The Zoo's maps
multiply the gradients, not the features, by the mean gradient; GradCAM here is the paper's. `classes="teacher"` takes
the class that the teacher predicts, for images whose labels are withheld.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.maps import map_rule, maps_of, masked_mean, same_size, taught_classes
from distiller.normalised import unit
from options import not_negative, one_of


def attention_distillation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Absolute difference of unit maps.

    Args:
        student, teacher: [B, k, h, w], not negative.

    Returns:
        [B]: mean over classes and positions.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    return jnp.mean(jnp.abs(unit(student, (2, 3)) - unit(teacher, (2, 3))), axis=(1, 2, 3))


class LwM(Distiller):
    """GradCAM maps of unit length, absolute difference.

    Paper: Dhar, Singh, Peng, Wu, Chellappa, CVPR 2019, arXiv:1811.08051

    Attributes:
        classes: "label": the label (images without a label are left out); "teacher": the teacher's predicted class.
        tap: the tap of GradCAM; "" is the last stage.
    """

    weight: float = not_negative(0.4)
    classes: str = one_of("label", "teacher")
    tap: str = ""

    @property
    def gradient_taps(self):
        return map_rule("GradCAM", self.tap).gradient_taps

    @property
    def needs_labels(self):
        return self.classes == "label"

    @nn.compact
    def __call__(self, student, teacher, batch):
        rule = map_rule("GradCAM", self.tap)
        classes, mask = taught_classes(self.classes, teacher.logits, batch.label)
        pair = same_size(*(maps_of(rule, outputs, classes) for outputs in (student, teacher)))
        loss = self.weight * masked_mean(attention_distillation(*pair), mask)
        return loss, {"LwM": loss}
