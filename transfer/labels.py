"""Labels: nobody teaches. The baseline of every table, and how teachers are trained."""

import dataclasses

import jax

from transfer.base import STUDENT, Strategy


@dataclasses.dataclass(frozen=True)
class Labels(Strategy):
    """The student learns from labels alone: the baseline of every table.

    Source: cross-entropy
    """

    uses_unlabelled = False
    baseline = True

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        extra = {"student": {"batch_stats": variables["batch_stats"]}}
        return self._state({"student": variables["params"]}, extra)

    def losses(self, params, state, batch, key):
        variables = {"params": params["student"], **state.extra["student"]}
        student, stats = self.student.forward(variables, batch.image, train=True)
        entropy, counts = self._label_term(student.logits, batch)
        return {"cross_entropy": entropy}, ({"student": {"batch_stats": stats}}, counts)
