"""PSKD: the student's predictions of the previous epoch soften the labels.

    target_b = (1 - a) * onehot_b + a * p_b,   a = alpha * (e + 1) / E,   loss = -mean_b sum_k target_bk log s_bk

e is the epoch from 0, E is `train_epoch`, s are the student's probabilities, and p_b is the student's last prediction
for example b, in train mode; the memory keeps p by index (N x K numbers).

Paper: Kim, Ji, Yoon, Hwang. Self-Knowledge Distillation with Progressive Refinement of Targets. ICCV 2021.
arXiv:2006.12000.

As in the released code the label replaces a prediction that does not exist yet, so the loss of the first epoch
is the label loss. An example without a label learns from a * p_b alone, and from nothing in its first epoch. Under
mixup and CutMix p_b is the prediction for the mixture whose larger part was b. If the number of examples N is unknown
(`batch.examples` is 0), N is the size of the batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.memory import recall, remember
from options import between
from transfer.alone import Alone


@dataclasses.dataclass(frozen=True)
class PSKD(Alone):
    """The student's own predictions of the previous epoch soften its labels, more and more.

    Paper: Kim, Ji, Yoon, Hwang, ICCV 2021, arXiv:2006.12000

    Attributes:
        alpha: a at the end of the training.
        train_epoch: E; the engine sets it.
    """

    alpha: float = between(0, 1, 0.8)
    train_epoch: int = 1

    def memory(self, student, batch):
        rows, classes = student.logits.shape
        return {"past": jnp.zeros((batch.examples or rows, classes), jnp.float32)}

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        share = jnp.minimum(self.alpha * (jnp.floor(batch.epoch) + 1) / self.train_epoch, 1.0)
        labels, counts = self._label_terms({"student": student}, batch, 1 - share)
        said = jax.nn.log_softmax(wide(student.logits))
        memory = extra["method"]["past"]
        past = recall(memory, batch.index, jnp.nan)
        unseen = jnp.all(past == 0, axis=1, keepdims=True)  # a prediction is positive
        past = jnp.where(unseen, self.task.soft_labels(batch, said.shape[1]), past)
        soft = -jnp.mean(jnp.sum(past * said, axis=1))
        memory = remember(memory, batch.index, jax.lax.stop_gradient(jnp.exp(said)))
        return {**labels, "PSKD": share * soft}, ({**extra, "method": {"past": memory}}, counts)
