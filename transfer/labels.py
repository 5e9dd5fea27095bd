"""Labels: the student has no teacher. The baseline of every table, and how teachers are trained."""

import dataclasses

import jax

from transfer.base import STUDENT, Strategy


@dataclasses.dataclass(frozen=True)
class Labels(Strategy):
    """The student learns from labels alone: the baseline of every table.

    Source: the task's label loss
    """

    uses_unlabelled = False
    baseline = True

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        extra = {"student": {"batch_stats": variables["batch_stats"]}}
        return self._state({"student": variables["params"]}, extra)

    def losses(self, params, state, batch, key):
        student, stats = self.student.forward(state.variables("student", params), batch.image, train=True)
        terms, counts = self._label_terms({"student": student}, batch)
        return terms, ({"student": {"batch_stats": stats}}, counts)
