"""Offline: a trained teacher, frozen, teaches the student."""

import dataclasses

import jax

from models import NoFeatures, Outputs
from transfer.base import STUDENT, Player, Strategy


@dataclasses.dataclass(frozen=True)
class Offline(Strategy):
    """A trained, frozen teacher in eval mode teaches the student.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Teacher and student see the same views, each normalised with its own statistics. The teacher's parameters and
    batch statistics never change. Where the batch brings the teacher's logits (a teacher bank), they stand for it and
    the state holds no teacher. The method's learnable parts train beside the student, by the same optimizer.

    Attributes:
        teacher: the teacher.
        teacher_variables: its `{"params", "batch_stats"}`; `init` copies them to the state when it is compiled.
        method: a distiller.
    """

    teacher: Player
    teacher_variables: dict
    teachers = "trained"
    needs_method = True
    freezes_teacher = True

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        student, _ = self._student(variables, batch)
        params, memory = self._method_init(key, student, self._teacher(self.teacher_variables, batch), batch)
        params = {"student": variables["params"], "method": params}
        extra = {"student": {"batch_stats": variables["batch_stats"]}, "method": memory}
        frozen = {"teacher": self.teacher_variables} if batch.teacher_logits is None else {}
        return self._state(params, extra, frozen=frozen)

    def losses(self, params, state, batch, key):
        teacher = self._teacher(state.frozen.get("teacher"), batch)
        student, stats = self._student({"params": params["student"], **state.extra["student"]}, batch)
        terms, memory = self._method(params["method"], state.extra["method"], student, teacher, batch, key)
        entropy, counts = self._label_term(student.logits, batch)
        extra = {"student": {"batch_stats": stats}, "method": memory}
        return {"cross_entropy": entropy, **terms}, (extra, counts)

    def inspect(self, state, batch):
        logits = self._teacher(state.frozen.get("teacher"), batch).logits
        return {**super().inspect(state, batch), "teacher's logits": logits}

    def _student(self, variables, batch):
        options = {"train": True, "gradient_taps": self.method.gradient_taps}
        return self.student.look(variables, batch, len(self.method.views), **options)

    def _teacher(self, variables, batch):
        if batch.teacher_logits is not None:
            return Outputs(logits=batch.teacher_logits, features=NoFeatures())
        taps = self.method.gradient_taps
        outputs, _ = self.teacher.look(variables, batch, len(self.method.views), gradient_taps=taps)
        return jax.lax.stop_gradient(outputs)
