"""IKL and GKL: differences between the classes' logits, weighted by the teacher's probabilities, and soft labels.

    loss = weight * ramp * (beta / 4 * E / N + alpha * mean_b KL(t_b || s_b)),   t, s = softmax(z / T)
    E = sum_bjk w_bj w_bk ((t_bj - t_bk) - (s_bj - s_bk))^2,   t, s the logits;   w_b = softmax(z_b / T2) of the teacher
    IKL: N = B, the number of images;   GKL: w_b^gamma in place of w_b and N = sum_bjk w_bj w_bk
    ramp = min((whole epochs done + 1) / warmup_epochs, 1)

Paper: Cui, Tian, Zhong, Qi, Yu, Zhang. Decoupled Kullback-Leibler Divergence Loss. NeurIPS 2024. arXiv:2305.13948.
GKL: Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong. Generalized Kullback-Leibler Divergence Loss. 2025. arXiv:2503.08038.

The papers split the KL divergence into both terms (DKL). IKL lets the gradient of the first term reach the student, and
smooths its weights: by T2 or, with `class_prior`, by the mean of w over all images of the class in the epoch before.
GKL flattens the weights by the exponent gamma. T^2 is not in. alpha 1, beta 4 and T = 4 are the authors' for CIFAR-100.

Deviations. The authors' second term is the cross-entropy with the teacher, which exceeds KL by a constant. Before the
first whole epoch, and for an image without a label, `class_prior` takes the image's own w. The sums over j and k are
computed as a weighted variance: E = 2 sum_b W_b sum_j w_bj (d_bj - mean)^2, d = t - s, W_b = sum_j w_bj.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.target import ramp
from options import between, not_negative, positive


def pair_difference_rows(student_logits: jax.Array, teacher_logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted squared difference of the differences between any two classes' logits.

    Args:
        student_logits, teacher_logits: [B, K], any float type; computed in float32 (float64 stays).
        weights: [B, K], not negative, of the logits' type.

    Returns:
        [B]: sum over ordered pairs (j, k) of w_j w_k ((t_j - t_k) - (s_j - s_k))^2.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student_logits, teacher_logits)
    whole, difference = jnp.sum(weights, axis=1, keepdims=True), teacher - student
    centred = difference - jnp.sum(weights * difference, axis=1, keepdims=True) / whole
    return 2 * whole[:, 0] * jnp.sum(weights * jnp.square(centred), axis=1)


class IKL(Distiller):
    """Differences between the classes' logits, weighted by the teacher's probabilities, and soft labels.

    Paper: Cui, Tian, Zhong, Qi, Yu, Zhang, NeurIPS 2024, arXiv:2305.13948

    Attributes:
        alpha: weight of the soft labels.
        beta: weight of the differences.
        temperature: T of the soft labels, dimensionless.
        weight_temperature: T2, of the weights, dimensionless.
        class_prior: an image's weights are the mean of its class over the epoch before.
        warmup_epochs: epochs over which the loss rises to its weight.
    """

    alpha: float = not_negative(1.0)
    beta: float = not_negative(4.0)
    temperature: float = positive(4.0)
    weight_temperature: float = positive(100.0)
    class_prior: bool = False
    warmup_epochs: int = not_negative(20)

    @nn.compact
    def __call__(self, student, teacher, batch):
        logits = matched(student.logits, teacher.logits)
        weights = jax.nn.softmax(logits[1] / self.weight_temperature)
        if self.class_prior:
            weights = self._of_class(weights, batch)
        s, t = (jax.nn.log_softmax(z / self.temperature) for z in logits)
        factor = self.weight * ramp(batch.epoch, self.warmup_epochs).astype(s.dtype)
        name = type(self).__name__
        terms = {
            f"{name}_differences": factor * self.beta / 4 * self._differences(*logits, weights),
            f"{name}_probabilities": factor * self.alpha * jnp.mean(jnp.sum(jnp.exp(t) * (t - s), axis=1)),
        }
        return sum(terms.values()), terms

    def _differences(self, student, teacher, weights):
        return jnp.mean(pair_difference_rows(student, teacher, weights))

    def _of_class(self, weights, batch):
        """Returns the mean weights of each image's class in the epoch before; if unknown, the image's own weights."""
        classes = weights.shape[1]
        square, row = (lambda: jnp.zeros((classes, classes))), (lambda: jnp.zeros(classes))
        prior, known = self.variable("memory", "prior", square), self.variable("memory", "known", row)
        sums, counts = self.variable("memory", "sums", square), self.variable("memory", "counts", row)
        epoch = self.variable("memory", "epoch", lambda: jnp.zeros(()))
        ended = jnp.floor(batch.epoch) > epoch.value
        seen = ended & (counts.value > 0)
        means = sums.value / jnp.maximum(counts.value, 1)[:, None]
        now, is_known = jnp.where(seen[:, None], means, prior.value), jnp.where(seen, 1.0, known.value)
        if self.is_mutable_collection("memory") and not self.is_initializing():
            members = jax.nn.one_hot(batch.label, classes)  # a withheld label is a row of zeros
            prior.value, known.value = now, is_known
            sums.value = jnp.where(ended, 0.0, sums.value) + members.T @ weights.astype(members.dtype)
            counts.value = jnp.where(ended, 0.0, counts.value) + jnp.sum(members, axis=0)
            epoch.value = jnp.floor(batch.epoch)
        label = jnp.maximum(batch.label, 0)
        use = (batch.label >= 0) & (is_known[label] > 0)
        return jnp.where(use[:, None], now[label].astype(weights.dtype), weights)


class GKL(IKL):
    """Differences between the classes' logits, weighted by flattened probabilities, and soft labels.

    Paper: Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong, 2025, arXiv:2503.08038

    Attributes:
        gamma: exponent of the weights; 0 makes all classes equal.
    """

    weight_temperature: float = positive(4.0)
    gamma: float = between(0.0, 1.0, 0.2)

    def _differences(self, student, teacher, weights):
        weights = weights**self.gamma
        rows = pair_difference_rows(student, teacher, weights)
        return jnp.sum(rows) / jnp.sum(jnp.square(jnp.sum(weights, axis=1)))
