"""Offline: one or several trained teachers, frozen, teach the student.

    one:       loss = CE + method(student, teacher)
    "losses":  loss = CE + sum_i w_i method_i(student, teacher_i),   w_i = 1 / n unless given
    "logits":  loss = CE + method(student, logits sum_i w_i z_i / sum_i w_i)

Papers: Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. NIPS workshop 2014. arXiv:1503.02531.
Several teachers: You, Xu, Xu, Tao. Learning from Multiple Teacher Networks. KDD 2017.

You et al. average the teachers' softened probabilities. Under SoftLogits that is "losses" with equal weights: the mean
of KL(t_i || s) is KL(mean_i t_i || s) and a constant. "logits" is the geometric mean of the probabilities, whatever the
temperature, and works for each method that reads logits. Their relative dissimilarities of features are not here.
"""

import dataclasses
import math

import jax

from models import NoFeatures, Outputs
from registry import UserError
from transfer.base import BANK_KEYS, STUDENT, TEACHER_KEYS, Player, Strategy
from transfer.peers import refuse_one_in


@dataclasses.dataclass(frozen=True)
class Offline(Strategy):
    """Trained, frozen teachers in eval mode teach the student.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Teachers and student see the same views, each normalised with its own statistics. A teacher's parameters and
    batch statistics never change. Where the batch brings the teacher's logits (a teacher bank), they stand for it and
    the state holds no teacher. The method's learnable parts train beside the student, by the same optimizer.

    Attributes:
        teacher: the teacher, or a tuple of several.
        teacher_variables: its `{"params", "batch_stats"}`, or a tuple of several; the state's `frozen` are copies.
        method: a distiller.
        combine: of several teachers: "losses" (the method once for each, with learnable parts of its own) or "logits"
            (the method once, for the average of their logits).
        teacher_weights: of several teachers, one each; without them all are equal and sum to 1.
    """

    teacher: Player | tuple[Player, ...]
    teacher_variables: dict | tuple[dict, ...]
    combine: str = "losses"
    teacher_weights: tuple[float, ...] = ()
    reads = ("distiller", *TEACHER_KEYS, *BANK_KEYS)

    @classmethod
    def players(cls, build):
        teachers, variables = zip(*build.trained("teacher"), strict=True)
        one = len(teachers) == 1
        return {"teacher": teachers[0] if one else teachers, "teacher_variables": variables[0] if one else variables}

    def __post_init__(self):
        refuse_one_in("combine", self.combine, ("losses", "logits"))
        count, weights = len(self._players), self.teacher_weights
        if self.combine == "logits" and not self._several:
            raise UserError(
                "'combine' 'logits' averages the logits of several teachers, and there is one. Leave it out."
            )
        if self._several and len(self.teacher_variables) != count:
            raise UserError(f"There are {count} teachers and variables of {len(self.teacher_variables)}.")
        numbers = [isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) for w in weights]
        if weights and not (self._several and len(weights) == count and all(numbers)):
            raise UserError(f"'teacher_weights' are as many numbers as there are teachers ({count}); got {weights}.")
        if weights and (min(weights) < 0 or sum(weights) == 0):
            raise UserError(f"'teacher_weights' must not be negative, nor all zero; got {weights}.")
        if self._averages and self.method.gradient_taps:
            raise UserError(
                f"{type(self.method).__name__} asks for the teachers' gradients, and combine='logits' has their "
                "average logits alone. Use combine='losses'."
            )

    @property
    def _several(self) -> bool:
        return isinstance(self.teacher, tuple)

    @property
    def _averages(self) -> bool:
        return self._several and self.combine == "logits"

    @property
    def _players(self) -> dict[str, Player]:
        """Name -> player: "teacher", or "teacher1", ..."""
        if not self._several:
            return {"teacher": self.teacher}
        return {f"teacher{i + 1}": player for i, player in enumerate(self.teacher)}

    @property
    def _weights(self) -> dict[str, float]:
        names = list(self._players)
        return dict(zip(names, self.teacher_weights or [1.0 / len(names)] * len(names), strict=True))

    def init(self, key, batch):
        variables = self.student.init(jax.random.fold_in(key, STUDENT), batch.image)
        student, _ = self._look(self.student, variables, batch)
        frozen = self.frozen if batch.teacher_logits is None else {}
        taught = self._taught(frozen, batch)
        if "teacher" in taught:
            params, memory = self._method_init(key, student, taught["teacher"], batch)
        else:
            keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(taught)}
            parts = {n: self._method_init(keys[n], student, outputs, batch) for n, outputs in taught.items()}
            params, memory = ({name: part[i] for name, part in parts.items()} for i in (0, 1))
        params = {"student": variables["params"], "method": params}
        extra = {"student": {"batch_stats": variables["batch_stats"]}, "method": memory}
        return self._state(params, extra).replace(frozen=frozen)

    @property
    def frozen(self):
        own = self.teacher_variables if self._several else (self.teacher_variables,)
        return dict(zip(self._players, own, strict=True))

    def losses(self, params, state, batch, key):
        taught = self._taught(state.frozen, batch)
        student, stats = self._look(self.student, state.variables("student", params), batch)
        own, memory = params["method"], state.extra["method"]
        if "teacher" in taught:
            terms, memory = self._method(own, memory, student, taught["teacher"], batch, key)
        else:
            terms, memories = {}, {}
            for i, (name, outputs) in enumerate(taught.items()):
                its_key = jax.random.fold_in(key, i)
                its_terms, memories[name] = self._method(own[name], memory[name], student, outputs, batch, its_key)
                for term, value in its_terms.items():
                    terms[term] = terms.get(term, 0.0) + self._weights[name] * value
            memory = memories
        labels, counts = self._label_terms({"student": student}, batch, self._label_weight(batch))
        extra = {"student": {"batch_stats": stats}, "method": memory}
        return {**labels, **terms}, (extra, counts)

    def inspect(self, state, batch):
        taught = self._taught(state.frozen, batch)
        return {**super().inspect(state, batch), **{f"{name}'s logits": t.logits for name, t in taught.items()}}

    def _taught(self, frozen, batch) -> dict[str, Outputs]:
        """What the method is called with: name -> a teacher's outputs; "teacher" alone where there is only one call."""
        if batch.teacher_logits is not None:
            if self._several:
                raise ValueError("The batch brings the logits of one teacher, and there are several.")
            return {"teacher": Outputs(logits=batch.teacher_logits, features=NoFeatures())}
        found = {}
        for name, player in self._players.items():
            outputs, _ = self._look(player, frozen[name], batch, train=False)
            found[name] = jax.lax.stop_gradient(outputs)
        return {"teacher": _average(found, self._weights)} if self._averages else found


def _average(teachers: dict[str, Outputs], weights: dict[str, float]) -> Outputs:
    """The weighted mean of logits, in each view; there are no features."""
    whole = sum(weights.values())

    def mean(outputs):
        logits = sum(weights[name] / whole * o.logits for name, o in outputs.items())
        return Outputs(logits=logits, features=NoFeatures())

    further = range(len(next(iter(teachers.values())).views))
    views = tuple(mean({name: o.views[i] for name, o in teachers.items()}) for i in further)
    return mean(teachers).replace(views=views)
