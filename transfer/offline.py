"""Offline: a trained teacher, frozen, teaches the student."""

import dataclasses

import flax.linen as nn
import jax

from models import NoFeatures, Outputs
from transfer.base import MEMORY, METHOD, STUDENT, Player, Strategy, label_loss


@dataclasses.dataclass(frozen=True)
class Offline(Strategy):
    """A trained, frozen teacher in eval mode teaches the student.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Teacher and student see the same view, each normalised with its own statistics. The teacher's parameters and
    batch statistics never change. Where the batch brings the teacher's logits (a teacher bank), they stand for it and
    the state holds no teacher. The method's learnable parts train beside the student, by the same optimizer.

    Attributes:
        teacher: the teacher.
        teacher_variables: its `{"params", "batch_stats"}`; `init` copies them to the state when it is compiled.
        method: a distiller.
    """

    teacher: Player
    teacher_variables: dict
    method: nn.Module
    needs_teacher = True
    freezes_teacher = True

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        student, _ = self._student(variables, batch)
        teacher = self._teacher(self.teacher_variables, batch)
        keys = {"params": jax.random.fold_in(key, METHOD), "method": jax.random.fold_in(key, MEMORY)}
        method = dict(self.method.init(keys, student, teacher, batch))
        params = {"student": variables["params"], "method": method.pop("params", {})}
        extra = {"student": {"batch_stats": variables["batch_stats"]}, "method": method}
        frozen = {"teacher": self.teacher_variables} if batch.teacher_logits is None else {}
        return self._state(params, extra, frozen=frozen)

    def loss(self, params, state, batch, key):
        teacher = self._teacher(state.frozen.get("teacher"), batch)
        student, stats = self._student({"params": params["student"], **state.extra["student"]}, batch)
        (distilled, terms), memory = self.method.apply(
            {"params": params["method"], **state.extra["method"]},
            student,
            teacher,
            batch,
            rngs={"method": key},
            mutable=list(state.extra["method"]),
        )
        entropy, counts = label_loss(student.logits, batch.label)
        entropy = self.method.ce_weight * entropy
        loss = entropy + distilled
        metrics = {"loss": loss, "cross_entropy": entropy, **terms, **counts}
        return loss, ({"student": {"batch_stats": stats}, "method": dict(memory)}, metrics)

    def _student(self, variables, batch):
        return self.student.forward(variables, batch.image, train=True, gradient_taps=self.method.gradient_taps)

    def _teacher(self, variables, batch):
        if batch.teacher_logits is not None:
            return Outputs(logits=batch.teacher_logits, features=NoFeatures())
        outputs, _ = self.teacher.forward(variables, batch.image, gradient_taps=self.method.gradient_taps)
        return jax.lax.stop_gradient(outputs)
