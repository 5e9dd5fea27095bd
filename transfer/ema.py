"""EMA: the running mean of the student's weights teaches the student.

    teacher <- d * teacher + (1 - d) * student   after each update,   d = min(decay, 1 - 1 / updates) with `ramp`
    loss = ce_weight * L(student) + method(student, teacher)

L is the task's loss on labels. Batch statistics are averaged like the weights.

Paper: Tarvainen, Valpola. Mean teachers are better role models: Weight-averaged consistency targets improve
semi-supervised deep learning results. NeurIPS 2017. arXiv:1703.01780.

With the ramp of the released code the teacher is at first the plain mean of the student's weights so far. When
1 - 1 / updates reaches `decay`, the moving average begins. Without the ramp the student's first, random weights stay in
the teacher for 1 / (1 - decay) updates. The teacher normalises with its averaged statistics. With `train_mode` the
teacher uses the batch's statistics, as in the released code.

The paper's method is the squared difference of probabilities, with a ramp of its weight and with different noise for
teacher and student. Here both see the same views, and any method teaches. The default is the KL divergence at T = 1
beside the whole label loss: a teacher that is no better than its student must not outweigh the labels. Teacher and
student still differ, because the student has the batch's statistics and newer weights. With decay 1 and no ramp the
strategy is `Offline` with the student's first weights as the teacher. The teacher is tested and kept beside the
student.
"""

import dataclasses

import jax
import jax.numpy as jnp

from options import between
from transfer.base import Strategy
from transfer.peers import refuse_two_phases


@dataclasses.dataclass(frozen=True)
class EMA(Strategy):
    """The exponential moving average of the student's weights, the mean teacher, teaches the student.

    Paper: Tarvainen, Valpola, NeurIPS 2017, arXiv:1703.01780

    Attributes:
        decay: d, in [0, 1].
        ramp: d grows from 0 in the first updates.
        train_mode: the teacher's batch norms use the batch's statistics.
    """

    decay: float = between(0, 1, 0.999)
    ramp: bool = True
    train_mode: bool = False
    reads = ("distiller",)
    default_method = ("SoftLogits", {"weight": 1.0, "ce_weight": 1.0, "temperature": 1.0})

    def __post_init__(self):
        refuse_two_phases("EMA", self.method)

    def init(self, key, batch):
        params, extra = self._first_variables(key, batch.image)
        # A copy, because a step takes the buffer of each leaf: no two leaves may share a buffer.
        extra["teacher"] = jax.tree.map(jnp.copy, {"params": params["student"], **extra["student"]})
        teacher = self._teacher(extra["teacher"], batch)
        student, _ = self._look("student", params, extra, batch)
        params["method"], extra["method"] = self._method_init(key, student, teacher, batch)
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        extra = state.extra
        teacher = self._teacher(extra["teacher"], batch)
        student, stats = self._look("student", params, extra, batch)
        terms, memory = self._method(params["method"], extra["method"], student, teacher, batch, key)
        labels, counts = self._label_terms({"student": student}, batch, self._label_weight(batch))
        return {**labels, **terms}, ({**extra, "student": stats, "method": memory}, counts)

    def step(self, state, batch, key):
        new, metrics = super().step(state, batch, key)
        decay = jnp.float32(self.decay)
        if self.ramp:
            decay = jnp.minimum(decay, 1 - 1 / new.step.astype(jnp.float32))

        def average(old, now):
            return (decay * old + (1 - decay) * now).astype(old.dtype)

        teacher = jax.tree.map(average, state.extra["teacher"], self.student_variables(new))
        return new.replace(extra={**new.extra, "teacher": teacher}), metrics

    def learners(self, state):
        return {**super().learners(state), "teacher": (self._named_teacher, state.extra["teacher"])}

    def inspect(self, state, batch):
        logits = self._teacher(state.extra["teacher"], batch).logits
        return {**super().inspect(state, batch), "teacher's logits": logits}

    def _teacher(self, variables, batch):
        return self._taught(self._named_teacher, variables, batch, self.train_mode)

    @property
    def _named_teacher(self):
        """The student's network under the teacher's name, under which it draws random numbers of its own."""
        return dataclasses.replace(self.student, name="teacher")
