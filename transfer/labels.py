"""Labels: the student has no teacher. The baseline of every table; teachers are trained with this strategy."""

import dataclasses

from transfer.base import Strategy


@dataclasses.dataclass(frozen=True)
class Labels(Strategy):
    """The student learns from labels alone: the baseline of every table.

    Source: the task's label loss
    """

    uses_unlabelled = False
    baseline = True

    def losses(self, params, state, batch, key):
        student, stats = self._look("student", params, state.extra, batch)
        terms, counts = self._label_terms({"student": student}, batch)
        return terms, ({"student": stats}, counts)
