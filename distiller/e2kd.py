"""E2KD: the teacher's softened class probabilities, and its explanation map of the class that it predicts.

    loss = weight * (T^2 mean_b KL(t || s) + explanation_weight * mean_b (1 - cos(map_s, map_t)))

map: GradCAM of the teacher's predicted class at the last stage, resized bilinearly to the image.

Paper: Parchami-Araghi, Böhle, Rao, Schiele. Good Teachers Explain: Explanation-Enhanced Knowledge Distillation.
ECCV 2024. arXiv:2402.03119, equations 1 to 3.

As in the paper's code, labels are not used (ce_weight 0). The code tries T of 1 and 5 and explanation_weight of 0.2, 1,
5 and 10; the defaults here are 1 and 1. In training, the gradient in the paper's maps also goes through batch norm's
statistics, so other images of the batch change a map. Here the statistics are constants of the map
(docs/architecture.md). Both are the same if no batch norm follows the last stage before global pooling.
"""

import flax.linen as nn
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.maps import cosine_distance, map_rule, maps_of, same_size, taught_classes
from distiller.soft_logits import kl_divergence
from explain.base import resize
from options import not_negative, positive


class E2KD(Distiller):
    """Softened class probabilities, and GradCAM of the teacher's predicted class by cosine.

    Paper: Parchami-Araghi, Böhle, Rao, Schiele, ECCV 2024, arXiv:2402.03119

    Attributes:
        temperature: T of the logit loss, dimensionless.
        explanation_weight: the paper's lambda.
        tap: the tap of GradCAM; "" is the last stage.
        resize: compare the maps at the image's size; False: at the smaller map's size.
    """

    ce_weight: float = not_negative(0.0)
    temperature: float = positive(1.0)
    explanation_weight: float = not_negative(1.0)
    tap: str = ""
    resize: bool = True

    @property
    def gradient_taps(self):
        return map_rule("GradCAM", self.tap).gradient_taps

    @nn.compact
    def __call__(self, student, teacher, batch):
        rule = map_rule("GradCAM", self.tap)
        classes, _ = taught_classes("teacher", teacher.logits, batch.label)
        pair = [maps_of(rule, outputs, classes) for outputs in (student, teacher)]
        if self.resize:
            pair = [resize(maps[:, 0], batch.image.shape[1:3])[:, None] for maps in pair]
        distance = jnp.mean(cosine_distance(*same_size(*pair)))
        logits = self.weight * kl_divergence(student.logits, teacher.logits, self.temperature)
        maps = self.weight * self.explanation_weight * distance
        return logits + maps, {"E2KD_logits": logits, "E2KD_maps": maps}
