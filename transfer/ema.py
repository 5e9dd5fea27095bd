"""EMA: the running mean of the student's weights teaches it."""

import dataclasses

import jax
import jax.numpy as jnp

from registry import UserError
from transfer.base import STUDENT, Strategy
from transfer.peers import refuse_two_phases


@dataclasses.dataclass(frozen=True)
class EMA(Strategy):
    """The exponential moving average of the student's weights teaches it: the mean teacher.

    Paper: Tarvainen, Valpola. Mean teachers are better role models: Weight-averaged consistency targets improve
    semi-supervised deep learning results. NeurIPS 2017. arXiv:1703.01780

        teacher <- d * teacher + (1 - d) * student   after each update,   d = min(decay, 1 - 1 / updates) with `ramp`

    The ramp, which the released code has, makes the teacher the plain mean of the students so far until that is longer
    than the moving one; without it the teacher is held by the student's first weights. Batch statistics are averaged
    like the weights. The teacher normalises with them; with `train_mode` it uses the batch's own statistics, as the
    released code does.

    What the teacher teaches is the method's matter: the paper has the squared difference of probabilities (with a ramp
    of its weight), on noise that differs between the two, where here both see the same views. Without `--distiller` it
    is the KL divergence at T = 1 beside the whole label loss: a teacher that is no better than its student must not
    outweigh the labels. The student stays apart from the teacher for its batch statistics and because it is ahead. With
    decay 1 and no ramp it is `Offline` with the student's first weights. The teacher is tested and kept beside the
    student.

    Attributes:
        decay: d, in [0, 1].
        ramp: the decay grows from 0 in the first updates.
        train_mode: the teacher's batch norms use the batch's statistics.
        method: a distiller.
    """

    decay: float = 0.999
    ramp: bool = True
    train_mode: bool = False
    reads = ("distiller",)
    default_method = ("SoftLogits", {"weight": 1.0, "ce_weight": 1.0, "temperature": 1.0})

    def __post_init__(self):
        if not 0 <= self.decay <= 1:
            raise UserError(f"EMA's decay is from 0 to 1; got {self.decay}.")
        refuse_two_phases("EMA", self.method)

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        teacher = self._teacher(variables, batch)
        student, _ = self._look(self.student, variables, batch)
        params, memory = self._method_init(key, student, teacher, batch)
        params = {"student": variables["params"], "method": params}
        extra = {"student": {"batch_stats": variables["batch_stats"]}, "method": memory}
        # a copy: the state's buffers are donated one by one
        extra["teacher"] = jax.tree.map(jnp.copy, variables)
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        extra = state.extra
        teacher = self._teacher(extra["teacher"], batch)
        student, stats = self._look(self.student, state.variables("student", params), batch)
        terms, memory = self._method(params["method"], extra["method"], student, teacher, batch, key)
        labels, counts = self._label_terms({"student": student}, batch, self._label_weight(batch))
        extra = {"student": {"batch_stats": stats}, "method": memory, "teacher": extra["teacher"]}
        return {**labels, **terms}, (extra, counts)

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
        teacher = dataclasses.replace(self.student, name="teacher")
        return {**super().learners(state), "teacher": (teacher, state.extra["teacher"])}

    def inspect(self, state, batch):
        logits = self._teacher(state.extra["teacher"], batch).logits
        return {**super().inspect(state, batch), "teacher's logits": logits}

    def _teacher(self, variables, batch):
        return jax.lax.stop_gradient(self._look(self.student, variables, batch, self.train_mode)[0])
