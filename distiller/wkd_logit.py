"""WKDLogit: the teacher's class probabilities, compared by a transport cost between similar and dissimilar classes.

    loss = weight * mean_b (-t_y log s_y + gamma * W(s', t')),   t, s = softmax(z),   y the label
    W(a, b) = sum_ij q_ij c_ij,   t', s' = softmax(z / T) over the classes other than y

q is the entropic transport plan between a and b with costs c, from Sinkhorn's iterations with the regularisation
`sinkhorn_lambda`; c_ij = 1 - cosine of the teacher's prototypes of the classes i and j.

Paper: Lv, Yang, Li. Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation. NeurIPS 2024.
arXiv:2412.08139, the logit part (WKD-L).

The prototypes are the rows of the teacher's classifier, one of the paper's choices, read through `Outputs.classify`.
As in the released code, c is max(c, 0) + 1e-8, and `epsilon` = 1e-8 is added to Sinkhorn's denominators. This epsilon
matters: at sinkhorn_lambda 0.05 a cost of 1, usual for unrelated classes, makes a kernel of exp(-20) = 2e-9, which is
below epsilon. So the plan drops a part of the mass between such classes. The published numbers were measured with this
epsilon; epsilon 0 is the paper's algorithm. Published recipes have gamma 200 to 600 and T 6 to 8. The recipes also
lower gamma by a cosine at the end of the training. This is left out here: a method does not know when the training
ends. The mean is over the labelled rows of the batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.nkd import target_rows
from distiller.normalised import embedding, unit
from distiller.target import labelled_mean, refuse_two_classes
from options import not_negative, positive


def class_costs(prototypes: jax.Array) -> jax.Array:
    """1 - cosine of every two classes' prototypes.

    Args:
        prototypes: [K, D] float.

    Returns:
        [K, K] in [0, 2].
    """
    directions = unit(prototypes)
    return 1.0 - directions @ directions.T


def classifier_rows(outputs) -> jax.Array:
    """The weights [K, D] of a network's classifier, read from its logits for every unit vector.

    Raises:
        ValueError: the teacher has no tap `embedding`.
    """
    width = embedding(outputs, "teacher").shape[-1]
    units = jnp.concatenate([jnp.eye(width), jnp.zeros((1, width))])
    logits = outputs.classify(units)
    return (logits[:-1] - logits[-1:]).T


def transport_rows(
    student: jax.Array,
    teacher: jax.Array,
    cost: jax.Array,
    sinkhorn_lambda: float = 0.05,
    iterations: int = 10,
    epsilon: float = 1e-8,
) -> jax.Array:
    """Cost of the entropic transport plan between two distributions, row by row.

    Classes that are 0 in both distributions of a row take no part.

    Args:
        student, teacher: [B, K], rows sum to 1.
        cost: [K, K], at least 0.
        sinkhorn_lambda: regularisation, above 0, in units of the cost.
        iterations: number of Sinkhorn's iterations.
        epsilon: added to Sinkhorn's denominators.

    Returns:
        [B]: sum over pairs of classes.
    """
    kernel = jnp.exp(-cost / sinkhorn_lambda)
    takes_part = ((student > 0) | (teacher > 0)).astype(student.dtype)
    u = takes_part / jnp.maximum(jnp.sum(takes_part, axis=1, keepdims=True), 1.0)
    v = u
    for _ in range(iterations):
        v = teacher / (u @ kernel + epsilon)
        u = student / (v @ kernel.T + epsilon)
    return jnp.sum((u @ (kernel * cost)) * v, axis=1)


def wasserstein_rows(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    label: jax.Array,
    cost: jax.Array,
    temperature: float = 1.0,
    sinkhorn_lambda: float = 0.05,
    iterations: int = 10,
    epsilon: float = 1e-8,
) -> jax.Array:
    """Transport cost between the distributions over the classes other than the label's.

    Args:
        student_logits, teacher_logits: [B, K] of one float type.
        label: [B] int; for a withheld label (-1) the row of the result has no meaning.
        cost: [K, K]; below 0 counts as 0.
        temperature: dimensionless, above 0.
        sinkhorn_lambda, iterations, epsilon: see `transport_rows`.

    Returns:
        [B].
    """
    target = jax.nn.one_hot(label, student_logits.shape[1], dtype=jnp.bool_)

    def others(logits):
        return jax.nn.softmax(jnp.where(target, -jnp.inf, logits / temperature))

    cost = jnp.maximum(cost, 0.0) + 1e-8
    distributions = others(student_logits), others(teacher_logits)
    return transport_rows(*distributions, cost, sinkhorn_lambda, iterations, epsilon)


class WKDLogit(Distiller):
    """Class probabilities under a transport cost between similar and dissimilar classes.

    Paper: Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139

    Attributes:
        gamma: weight of the transport cost against the target's term.
        temperature: T of the other classes, dimensionless.
        sinkhorn_lambda: entropic regularisation, in units of the cost.
        iterations: number of Sinkhorn's iterations.
        epsilon: added to Sinkhorn's denominators; 0 is the paper's algorithm.
    """

    needs_labels = True
    gamma: float = not_negative(200.0)
    temperature: float = positive(8.0)
    sinkhorn_lambda: float = positive(0.05)
    iterations: int = positive(10)
    epsilon: float = not_negative(1e-8)

    @nn.compact
    def __call__(self, student, teacher, batch):
        refuse_two_classes("WKDLogit", student.logits)
        logits = matched(student.logits, teacher.logits)
        cost = class_costs(wide(classifier_rows(teacher))).astype(logits[0].dtype)
        target = labelled_mean(target_rows(*logits, batch.label), batch.label)
        options = self.temperature, self.sinkhorn_lambda, self.iterations, self.epsilon
        rows = wasserstein_rows(*logits, batch.label, cost, *options)
        others = labelled_mean(rows, batch.label)
        terms = {"WKDLogit_target": self.weight * target, "WKDLogit_others": self.weight * self.gamma * others}
        return sum(terms.values()), terms
