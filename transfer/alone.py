"""The base of the strategies in which the student is the only network."""

import dataclasses

import flax.linen as nn
import jax

from data import Batch
from models import Outputs
from transfer.base import METHOD, State, Strategy


@dataclasses.dataclass(frozen=True)
class Alone(Strategy):
    """Base of the strategies with a student and no other network.

    A subclass defines `losses`, and `heads` and `memory` if it has them. The state holds both under the name "method".
    The heads learn beside the student, by the same optimizer, and are not part of the student.
    """

    def heads(self) -> nn.Module | None:
        """Returns a module that takes the student's `Outputs` and trains beside the student, or None."""
        return None

    def memory(self, student: Outputs, batch: Batch) -> dict:
        """Returns name -> first value of each array that a step passes to the next, beside the batch statistics."""
        return {}

    def init(self, key, batch):
        params, extra = self._first_variables(key, batch.image)
        student, _ = self._look("student", params, extra, batch)
        heads, memory = self.heads(), self.memory(student, batch)
        if heads is not None:
            params["method"] = heads.init(jax.random.fold_in(key, METHOD), student)["params"]
        if heads is not None or memory:
            extra["method"] = memory
        return self._state(params, extra)

    def _student(self, params: dict, state: State, batch: Batch) -> tuple[Outputs, dict]:
        """Runs the student in train mode on all views.

        Returns:
            (`Outputs`, the state's new `extra`: the batch statistics after the passes, the memory as it was).
        """
        student, stats = self._look("student", params, state.extra, batch)
        return student, {**state.extra, "student": stats}

    def _heads(self, params: dict, student: Outputs):
        """Returns the heads' result for the student's outputs."""
        return self.heads().apply({"params": params["method"]}, student)
