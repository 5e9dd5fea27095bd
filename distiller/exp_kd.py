"""ExpKD: at every place of the image, which of the teacher's likely classes it speaks for.

    p(m) = softmax_k(m_khw / T) over the teacher's top_k classes,   loss = weight * mean_bhw sum_k (p(m_s) - p(m_t))^2

m_k: the class activation map of class k without ReLU, times its number of positions: on the scale of logits, whose mean
over positions it is (less the bias).

Paper: none known here; the code published as Exp-KD. This is the loss that its first commit means; what it computes
takes the softmax over the wrong axis and then a mean, which is a constant, so that the student gets no gradient. There
are no numbers to compare with, then, and the weight, T and top_k here are this library's.

Of two maps the larger is resized bilinearly to the smaller. A map that is not linear in the features (`map`: any of
`explain.names()`) is taken without its last ReLU where it has one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.maps import map_rule, maps_of, same_size, taught_classes


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
    """Which of the teacher's likely classes each position speaks for: softmax over classes of class activation maps.

    Paper: none known here; what the code published as Exp-KD means (it gives no gradient, see the file)

    Attributes:
        top_k: so many of the teacher's likeliest classes (all, where there are fewer).
        temperature: T, dimensionless.
        map: one of `explain.names()`; "GradCAM" for networks whose embedding is not the mean of a map.
        tap: where the map is taken, for those that have the choice; "" is the last stage.
    """

    weight: float = 1.0
    top_k: int = 5
    temperature: float = 1.0
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
