"""ND: the student's embedding, pulled in the direction of the teacher's class mean and to at least the teacher's norm.

    loss = weight * mean_b (1 - <s_b, c_y> / (||c_y|| max(||s_b||, ||t_b||)))
    s, t the embeddings, y the label, c_k the mean of the teacher's embeddings of class k

Paper: Wang, Cheng, Duan, Wang, Feng, Kong. Improving Knowledge Distillation via Regularizing Feature Norm and
Direction. 2023. arXiv:2305.17007.

The paper adds this loss to others: `SoftLogits+ND` is its KD++, `DKD+ND` its DKD++. Its weights on CIFAR-100 depend on
the pair: 2 (ResNet56 to ResNet20, ResNet32x4 to ResNet8x4), 1.5 or 0.5, beside a cross-entropy of weight 1 and KD of
weight 1 to 4. As in the authors' code, the gradient also goes through ||s_b|| if that is the larger norm.

Deviations. The authors compute the class means in a pass of the teacher over the training set. A method sees no data
set, so c_k is the mean of all embeddings of the class in the batches so far, this one included. If the widths differ, a
learned linear map brings the student's embedding to the teacher's width; the authors put that map into the student,
before its classifier. The mean is over the labelled rows of the batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.normalised import Linear, embedding, unit
from distiller.target import labelled_mean
from options import not_negative


def norm(x: jax.Array) -> jax.Array:
    """L2 norm of the rows, [B, D] -> [B]; 0, with a zero gradient, where a row is zero."""
    square = jnp.sum(jnp.square(x), axis=1)
    alive = square > 0
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1.0)), 0.0)


def norm_direction_rows(student: jax.Array, teacher: jax.Array, centres: jax.Array) -> jax.Array:
    """1 - (the student's component along its class's centre) / (the larger of both norms).

    Args:
        student, teacher: embeddings [B, D], any float type; computed in float32 (float64 stays).
        centres: [B, D], the mean embedding of each row's class, of any length.

    Returns:
        [B] in [0, 2]; 1 where both embeddings or the centre are zero.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    along = jnp.sum(student * unit(centres), axis=1)
    largest = jnp.maximum(norm(student), norm(teacher))
    alive = largest > 0
    return 1 - jnp.where(alive, along / jnp.where(alive, largest, 1.0), 0.0)


class ND(Distiller):
    """Embedding in the direction of the teacher's class mean, with at least the teacher's norm.

    Paper: Wang, Cheng, Duan, Wang, Feng, Kong, 2023, arXiv:2305.17007
    """

    needs_labels = True
    weight: float = not_negative(2.0)

    @nn.compact
    def __call__(self, student, teacher, batch):
        s, t = embedding(student, "student"), embedding(teacher, "teacher")
        if s.shape != t.shape:
            s = Linear(t.shape[-1], use_bias=False, name="projector")(s)
        classes = student.logits.shape[1]
        means = self.variable("memory", "means", lambda: jnp.zeros((classes, t.shape[-1])))
        counts = self.variable("memory", "counts", lambda: jnp.zeros(classes))
        members = jax.nn.one_hot(batch.label, classes)  # a withheld label is a row of zeros
        new = jnp.sum(members, axis=0)
        count = counts.value + new
        moved = (members.T @ t.astype(members.dtype) - new[:, None] * means.value) / jnp.maximum(count, 1)[:, None]
        centres = means.value + moved
        if self.is_mutable_collection("memory") and not self.is_initializing():
            means.value, counts.value = centres, count
        rows = norm_direction_rows(s, t, centres[jnp.maximum(batch.label, 0)].astype(t.dtype))
        loss = self.weight * labelled_mean(rows, batch.label)
        return loss, {"ND": loss}
