"""ExpKD: how much each position of the image speaks for each of the teacher's likely classes.

    p(m) = softmax_k(m_khw / T) over the teacher's top_k classes,   loss = weight * mean_bhw sum_k (p(m_s) - p(m_t))^2

m_k is the class activation map of class k, without ReLU, times its number of positions. The mean of m_k over positions
is the class's logit without its bias, so m_k has the scale of logits.

Paper: none known here; the code published as Exp-KD.

This is the loss that the first commit of that code intends. The code itself takes the softmax over the wrong axis and
then a mean. The result is a constant, so the student gets no gradient. No published numbers exist to compare with. The
weight, T and top_k are this library's. The larger of two maps is resized bilinearly to the smaller. `map` chooses
another map, any of `explain.names()`. Its last ReLU, if it has one, is left out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.maps import map_rule, maps_of, same_size, taught_classes
from options import not_negative, positive


def class_share_loss(student: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Squared difference of each position's shares of the classes.

    Args:
        student, teacher: [B, k, h, w], class maps on the scale of logits.
        temperature: dimensionless, above 0; no T^2 is in.

    Returns:
        Scalar: sum over classes, mean over batch and positions.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = (jax.nn.softmax(x / temperature, axis=1) for x in matched(student, teacher))
    return jnp.mean(jnp.sum(jnp.square(student - teacher), axis=1))


class ExpKD(Distiller):
    """How much each position speaks for each of the teacher's likely classes: softmax of class activation maps.

    Paper: none known here; the loss that the code published as Exp-KD intends (see the file)

    Attributes:
        top_k: number of the teacher's likeliest classes (all classes if the task has fewer).
        temperature: T, dimensionless.
        map: one of `explain.names()`; "GradCAM" for networks whose embedding is not the mean of a map.
        tap: the tap of the map, for maps that have the choice; "" is the last stage.
    """

    weight: float = not_negative(1.0)
    top_k: int = positive(5)
    temperature: float = positive(1.0)
    map: str = "CAM"
    tap: str = ""

    @property
    def gradient_taps(self):
        return self._rule().gradient_taps

    def _rule(self):
        return map_rule(self.map, self.tap, relu=False)

    @nn.compact
    def __call__(self, student, teacher, batch):
        classes, _ = taught_classes("teacher", teacher.logits, batch.label, self.top_k)
        found = (maps_of(self._rule(), outputs, classes) for outputs in (student, teacher))
        pair = same_size(*(maps * (maps.shape[2] * maps.shape[3]) for maps in found))
        loss = self.weight * class_share_loss(*pair, self.temperature)
        return loss, {"ExpKD": loss}
