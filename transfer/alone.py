"""What strategies share in which the student is the only network: its past, its other views or its own depth teach."""

import dataclasses

import flax.linen as nn
import jax

from data import Batch
from models import Outputs
from transfer.base import METHOD, STUDENT, Strategy


@dataclasses.dataclass(frozen=True)
class Alone(Strategy):
    """Base of the strategies with a student and no other network.

    A subclass defines `losses`, and where it needs them `heads` and `memory`. Both live under the name "method" in
    the state; the heads learn beside the student, by the same optimizer, and are not part of it.
    """

    def heads(self) -> nn.Module | None:
        """A module that is called with the student's `Outputs` and trains beside it; None: there is none."""
        return None

    def memory(self, student: Outputs, batch: Batch) -> dict:
        """What is carried from step to step beside the batch statistics: name -> array."""
        return {}

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        student, _ = self._outputs(variables["params"], variables["batch_stats"], batch)
        params, extra = {"student": variables["params"]}, {"student": {"batch_stats": variables["batch_stats"]}}
        heads, memory = self.heads(), self.memory(student, batch)
        if heads is not None:
            params["method"] = heads.init(jax.random.fold_in(key, METHOD), student)["params"]
        if heads is not None or memory:
            extra["method"] = memory
        return self._state(params, extra)

    def _outputs(self, params: dict, batch_stats: dict, batch: Batch):
        """(the student's `Outputs` in training mode, all views; its batch statistics afterwards)."""
        variables = {"params": params, "batch_stats": batch_stats}
        return self.student.look(variables, batch, len(self.views), train=True)

    def _student(self, params: dict, state, batch: Batch):
        """`_outputs` with the parameters and the statistics where they lie in a training step."""
        return self._outputs(params["student"], state.extra["student"]["batch_stats"], batch)

    def _heads(self, params: dict, student: Outputs):
        """What the heads answer to the student's outputs."""
        return self.heads().apply({"params": params["method"]}, student)
