"""PSKD: the student's predictions of the epoch before soften the labels."""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.base import wide
from registry import UserError
from transfer.alone import Alone


def recall(past: jax.Array, index: jax.Array) -> jax.Array:
    """Rows `index` [B] of `past` [N, K]; NaN, never another row, where an index is not in [0, N)."""
    inside = (index >= 0) & (index < past.shape[0])
    return jnp.where(inside[:, None], past[jnp.clip(index, 0, past.shape[0] - 1)], jnp.nan)


def remember(past: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """`past` [N, K] with `rows` [B, K] at `index` [B]; those outside of [0, N) are left out."""
    return past.at[jnp.where(index < 0, past.shape[0], index)].set(rows, mode="drop")


@dataclasses.dataclass(frozen=True)
class PSKD(Alone):
    """The student's own predictions of the epoch before soften its labels, more and more.

    Paper: Kim, Ji, Yoon, Hwang. Self-Knowledge Distillation with Progressive Refinement of Targets. ICCV 2021.
    arXiv:2006.12000

        target_b = (1 - a) * onehot_b + a * p_b,   a = alpha * (e + 1) / E,   loss = -mean_b sum_k target_bk log s_bk

    e is the epoch from 0 and E `train_epoch`; p_b is what the student predicted for example b when it last saw it, in
    training mode, kept by index (N x K numbers). As in the released code the label stands for a prediction that is not
    there yet, so the first epoch is the label loss. An example without a label learns from a * p_b alone, and in its
    first epoch from nothing. Under mixup and CutMix p_b is the prediction for the mixture of which b was
    the larger part. With N unknown (`batch.examples` 0) the batch is all there is.

    Attributes:
        alpha: a at the end of the training.
        train_epoch: E; set by the engine.
    """

    alpha: float = 0.8
    train_epoch: int = 1

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise UserError(f"PSKD's alpha is from 0 to 1; got {self.alpha}.")

    def memory(self, student, batch):
        rows, classes = student.logits.shape
        return {"past": jnp.zeros((batch.examples or rows, classes), jnp.float32)}

    def losses(self, params, state, batch, key):
        student, stats = self._student(params, state, batch)
        share = jnp.minimum(self.alpha * (jnp.floor(batch.epoch) + 1) / self.train_epoch, 1.0)
        labels, counts = self._label_terms({"student": student}, batch, 1 - share)
        said = jax.nn.log_softmax(wide(student.logits))
        memory = state.extra["method"]["past"]
        past = recall(memory, batch.index)
        unseen = jnp.all(past == 0, axis=1, keepdims=True)  # a prediction is positive
        past = jnp.where(unseen, self.task.soft_labels(batch, said.shape[1]), past)
        soft = -jnp.mean(jnp.sum(past * said, axis=1))
        memory = remember(memory, batch.index, jax.lax.stop_gradient(jnp.exp(said)))
        terms = {**labels, "PSKD": share * soft}
        return terms, ({"student": {"batch_stats": stats}, "method": {"past": memory}}, counts)
