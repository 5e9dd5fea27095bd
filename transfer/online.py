"""Online: the teacher learns from the labels while it teaches.

    teacher:  L(teacher)
    student:  ce_weight * L(student) + method(student, teacher)

L is the task's loss on labels.

Source: the one-way online distillation of older JAX cookbooks (CIFAR-10, ResNet-56 to ResNet-32); the simplest case of
Zhang, Xiang, Hospedales, Lu. Deep Mutual Learning. CVPR 2018. arXiv:1706.00384, with one direction only.

Teacher and student see the same images in the same step, both in train mode. So the teacher's batch norms use the
batch's statistics. The teacher's outputs are constants to the method, so the teacher learns from labels alone. One
optimizer moves both; `clip_norm` clips the norm over both together. With `teacher_learning_rate` 0 the strategy is
Offline with a teacher in train mode.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from options import not_negative
from registry import UserError
from transfer.base import TEACHER_KEYS, Player, Strategy
from transfer.peers import players_of, refuse_two_phases


@dataclasses.dataclass(frozen=True)
class Online(Strategy):
    """The teacher learns from labels while it teaches the student, with any method.

    Source: older JAX distillation cookbooks; one direction of arXiv:1706.00384

    Attributes:
        peers: a tuple of the teacher only.
        teacher_variables: the teacher's first variables (`--teacher_param`); None: drawn at random.
        teacher_learning_rate: factor on the teacher's updates; at 0 the teacher's weights do not change, but its batch
            statistics do.
    """

    peers: tuple[Player, ...]
    teacher_variables: Any = None
    teacher_learning_rate: float = not_negative(1.0)
    reads = ("distiller", *TEACHER_KEYS)

    @classmethod
    def players(cls, build):
        if not build.has_weights:
            return {"peers": build.untrained("teacher")}
        peers, variables = zip(*build.trained("teacher", frozen=False), strict=True)
        return {"peers": peers, "teacher_variables": variables[0]}

    def __post_init__(self):
        if len(self.peers) != 1:
            raise UserError(f"Online has one teacher; got {len(self.peers)}. For several learners: --transfer Mutual.")
        if self.teacher_variables is None:
            refuse_two_phases("Online", self.method, " or give --teacher_param")
        self._players  # noqa: B018  # checks the names

    @property
    def _players(self):
        return players_of(self.student, self.peers)

    def init(self, key, batch):
        name = self.peers[0].name
        params, extra = self._first_variables(key, batch.image)
        if self.teacher_variables is not None:
            own = jax.tree.map(jnp.asarray, dict(self.teacher_variables))
            params[name], extra[name] = own["params"], {"batch_stats": own.get("batch_stats", {})}
        outputs = {n: self._look(n, params, extra, batch)[0] for n in self._players}
        teacher = jax.lax.stop_gradient(outputs[name])
        params["method"], extra["method"] = self._method_init(key, outputs["student"], teacher, batch)
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        name = self.peers[0].name
        student, stats = self._look("student", params, state.extra, batch)
        teacher, its_stats = self._look(name, params, state.extra, batch)
        constant = jax.lax.stop_gradient(teacher)
        terms, memory = self._method(params["method"], state.extra["method"], student, constant, batch, key)
        labels, counts = self._label_terms({"student": student}, batch, self._label_weight(batch))
        weight = jnp.where(batch.epoch < self._first_phase, 0.0, 1.0) if self._first_phase else 1.0
        its_labels, _ = self._label_terms({name: teacher}, batch, weight)
        return {**labels, **terms, **its_labels}, ({"student": stats, name: its_stats, "method": memory}, counts)

    def _scaled(self, updates):
        name, factor = self.peers[0].name, self.teacher_learning_rate
        return {**updates, name: jax.tree.map(lambda u: factor * u, updates[name])}
