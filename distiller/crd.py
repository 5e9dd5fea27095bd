"""CRD: an example's two embeddings are close to each other, and far from those of many examples of other classes.

    s = unit(W_s f_s), t = unit(W_t f_t);  M_s, M_t: memories [N, 128] of every example's s and t
    P(a, m) = exp(<a, m> / T) / Z,   c = K / N,   h(a, m) = P / (P + c)
    loss = weight * mean_i of -log h(s_i, M_t[i]) - sum_{K negatives k} log(1 - h(s_i, M_t[k])), and the same for t, M_s
    afterwards M_s[i] = unit(momentum * M_s[i] + (1 - momentum) * s_i), and M_t alike

Paper: Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020. arXiv:1910.10699.

Form and numbers are those of the authors' RepDistiller: T = 0.07, K = 16384, momentum 0.5, weight 0.8. Z is N times the
mean score of the first batch and stays constant. The memories start uniform in +-sqrt(3 / 128). Deviations:
- RepDistiller's data loader draws K negatives for each row. That gathers [B, K, 128] in each step (537 MB at B = 64).
  Here the batch shares one set of K examples, uniform over all examples with replacement, and two matrix products give
  all scores. Negatives of the row's own class, and the row itself, do not count; each other negative has the weight
  K / (their number). Every row's loss has the same expectation as in RepDistiller. The rows of a batch no longer draw
  independently.
- A method sees no data set. The memory `label` keeps the classes of the examples that batches have brought. An example
  whose class is not known yet, or is withheld, counts as a negative of every other example.
- The logarithms are softplus of log-scores, without RepDistiller's 1e-7.
- An example can be in a batch twice (never within one pass over the data). Its memory is then updated once, with the
  mean.
- An index outside the memory gives NaN, which stops the run.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.memory import recall, remember
from distiller.normalised import Linear, embedding, unit
from options import between, not_negative, positive


def draw(key: jax.Array, count: int, size: int) -> jax.Array:
    """[count] int32: examples of `size`, uniform, with replacement."""
    return jax.random.randint(key, (count,), 0, size, jnp.int32)


def moved(bank: jax.Array, index: jax.Array, embedded: jax.Array, momentum: float) -> jax.Array:
    """The memory after a batch: rows `index` move towards `embedded` [B, D], at unit length.

    Rows with the same index move towards their mean, so that the result does not depend on the order of writing.
    """
    same = (index[:, None] == index[None]).astype(embedded.dtype)
    embedded = same @ embedded / jnp.sum(same, axis=1, keepdims=True)
    old = recall(bank, index, jnp.nan).astype(embedded.dtype)
    return remember(bank, index, unit(momentum * old + (1 - momentum) * embedded))


def countable(label: jax.Array, index: jax.Array, labels: jax.Array, negatives: jax.Array) -> jax.Array:
    """Decides for every row which of the shared negatives count.

    Args:
        label, index: [B] int32, of the rows; label -1 where unknown.
        labels: [N] int32, the remembered labels; -1 where unknown.
        negatives: [K] int32, examples.

    Returns:
        [B, K] bool: False for the row itself and for an example known to be of the row's class.
    """
    others = labels[negatives]
    alike = (label[:, None] == others[None]) & (label[:, None] >= 0)
    return ~alike & (index[:, None] != negatives[None])


def contrast(
    anchor: jax.Array,
    bank: jax.Array,
    index: jax.Array,
    negatives: jax.Array,
    counts: jax.Array,
    normaliser: jax.Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """Noise-contrastive loss of one network's embeddings against the other's memory.

    Args:
        anchor: [B, D], unit length.
        bank: [N, D], the other network's memory; gets no gradient.
        index: [B] int32, the anchors' examples.
        negatives: [K] int32, examples shared by the anchors.
        counts: [B, K] bool, the negatives that count; their weights sum to K in every row.
        normaliser: scalar Z; below 0: not set yet.
        temperature: T, dimensionless.

    Returns:
        (loss, Z). The loss is a scalar: sum over the positive and K negatives, mean over the batch, natural log.
    """
    size, many = bank.shape[0], negatives.shape[0]
    bank = jax.lax.stop_gradient(bank)
    positive = jnp.sum(anchor * recall(bank, index, jnp.nan).astype(anchor.dtype), axis=1) / temperature
    negative = anchor @ bank[negatives].astype(anchor.dtype).T / temperature
    counts = counts.astype(anchor.dtype)
    counts = counts * (many / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1))

    def first():
        score = (jnp.exp(positive) + jnp.sum(counts * jnp.exp(negative), axis=1)) / (many + 1)
        return jax.lax.stop_gradient(jnp.mean(score) * size).astype(normaliser.dtype)

    normaliser = jax.lax.cond(normaliser < 0, first, lambda: normaliser)
    shift = jnp.log(normaliser).astype(anchor.dtype) + math.log(many / size)  # log(P / c) is the score less this
    loss = jax.nn.softplus(shift - positive) + jnp.sum(counts * jax.nn.softplus(negative - shift), axis=1)
    return jnp.mean(loss), normaliser


class CRD(Distiller):
    """Contrast of each example's two embeddings with those of many examples of other classes.

    Paper: Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699

    Attributes:
        negatives: K, drawn anew in every step.
        temperature: T, dimensionless.
        momentum: share of the old value in a memory's update.
        feat_dim: width of the embeddings that are contrasted.
    """

    weight: float = not_negative(0.8)
    negatives: int = positive(16384)
    temperature: float = positive(0.07)
    momentum: float = between(0.0, 1.0, 0.5)
    feat_dim: int = positive(128)

    @nn.compact
    def __call__(self, student, teacher, batch):
        size = batch.examples or len(batch.index)  # without `examples` (N), the batch is the whole data set
        shape, bound = (size, self.feat_dim), math.sqrt(3 / self.feat_dim)

        def uniform():
            return jax.random.uniform(self.make_rng("method"), shape, jnp.float32, -bound, bound)

        bank_s, bank_t = self.variable("memory", "student", uniform), self.variable("memory", "teacher", uniform)
        labels = self.variable("memory", "label", lambda: jnp.full(size, -1, jnp.int32))
        normalisers = self.variable("memory", "normaliser", lambda: jnp.full(2, -1.0, jnp.float32))
        rows = bank_s.value.shape[0]
        if batch.examples and rows != size:
            raise ValueError(f"CRD's memory has {rows} rows, but there are {size} examples. Initialise it anew.")

        s = unit(Linear(self.feat_dim, name="embed_student")(embedding(student, "student")))
        t = unit(Linear(self.feat_dim, name="embed_teacher")(embedding(teacher, "teacher")))
        index, known = batch.index, recall(labels.value, batch.index, -1)
        label = jnp.where(batch.label >= 0, batch.label, known)
        class_of = remember(labels.value, index, label)
        drawn = draw(self.make_rng("method"), self.negatives, rows)
        counts = countable(label, index, class_of, drawn)
        z_s, z_t = normalisers.value
        loss_s, z_s = contrast(s, bank_t.value, index, drawn, counts, z_s, self.temperature)
        loss_t, z_t = contrast(t, bank_s.value, index, drawn, counts, z_t, self.temperature)
        if self.is_mutable_collection("memory") and not self.is_initializing():
            bank_s.value = moved(bank_s.value, index, jax.lax.stop_gradient(s), self.momentum)
            bank_t.value = moved(bank_t.value, index, jax.lax.stop_gradient(t), self.momentum)
            labels.value, normalisers.value = class_of, jnp.stack([z_s, z_t])
        terms = {"CRD_student": self.weight * loss_s, "CRD_teacher": self.weight * loss_t}
        return sum(terms.values()), terms
