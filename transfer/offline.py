"""Offline: one or several trained teachers, frozen, teach the student.

    one teacher:  loss = ce_weight * L + method(student, teacher)
    "losses":     loss = ce_weight * L + sum_i w_i method_i(student, teacher_i),   w_i = 1 / n unless given
    otherwise:    loss = ce_weight * L + method(student, the mean of the teachers)

L is the task's loss on labels. transfer/ensembles.py has the means: of "logits" or "probabilities", with weights for
each teacher, or for each teacher and image.

Papers: Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. NIPS workshop 2014. arXiv:1503.02531.
Several teachers: You, Xu, Xu, Tao. Learning from Multiple Teacher Networks. KDD 2017.

You et al. average the teachers' softened probabilities, as "probabilities" does. "losses" with SoftLogits and equal
weights does the same: the mean of KL(t_i || s) is KL(mean_i t_i || s) plus a constant. "logits" is the geometric mean
of the probabilities at any temperature. The paper's relative dissimilarities of features are not implemented.
"""

import dataclasses

import jax

from models import NoFeatures, Outputs
from options import not_negative, one_of
from registry import UserError
from transfer import ensembles, phi_s
from transfer.base import BANK_KEYS, TEACHER_KEYS, Player, Strategy


@dataclasses.dataclass(frozen=True)
class Offline(Strategy):
    """Trained, frozen teachers in eval mode teach the student.

    Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531

    Teachers and student see the same views, each normalised with its own statistics. A teacher's parameters and
    batch statistics never change. If the batch has the teacher's logits (a teacher bank), the method reads these, and
    the state holds no teacher. The method's learnable parts train beside the student, by the same optimizer.

    Attributes:
        teacher: the teacher, or a tuple of several.
        teacher_variables: the teacher's `{"params", "batch_stats"}`, or a tuple with those of several.
        combine: for several teachers: "losses" (the method once for each teacher, with learnable parts of its own),
            "logits" or "probabilities" (the method once, for the mean of the teachers).
        teacher_weights: for several teachers, one number each; without them all weights are equal and sum to 1.
        weighting: for a mean of teachers: "equal", or by image: "confidence" (in its label) or "agreement".
        standardise: "phi_s": the teachers' features that the method reads have one scale first (transfer/phi_s.py).
    """

    teacher: Player | tuple[Player, ...]
    teacher_variables: dict | tuple[dict, ...]
    combine: str = one_of("losses", "logits", "probabilities")
    teacher_weights: tuple[float, ...] = not_negative(())
    weighting: str = one_of("equal", "confidence", "agreement")
    standardise: str = one_of("none", "phi_s")
    reads = ("distiller", *TEACHER_KEYS, *BANK_KEYS)

    @classmethod
    def players(cls, build):
        teachers, variables = zip(*build.trained("teacher"), strict=True)
        one = len(teachers) == 1
        return {"teacher": teachers[0] if one else teachers, "teacher_variables": variables[0] if one else variables}

    def __post_init__(self):
        count, weights = len(self._teachers), self.teacher_weights
        ensembles.check(self.combine, self.weighting, weights, self._several, self.method, self.task)
        if self._several and len(self.teacher_variables) != count:
            raise UserError(f"There are {count} teachers and variables of {len(self.teacher_variables)}.")
        if weights and not (self._several and len(weights) == count):
            several = "" if self._several else ", for several teachers"
            raise UserError(
                f"'teacher_weights' must be as many numbers as there are teachers ({count}){several}; got {weights}."
            )
        if weights and sum(weights) == 0:
            raise UserError(f"'teacher_weights' must not all be 0; got {weights}.")

    def prepared(self, abstract, split=None):
        if self.standardise == "none":
            return self
        return phi_s.standardised(self, abstract) if split is None else phi_s.measured(self, split)

    @property
    def _several(self) -> bool:
        return isinstance(self.teacher, tuple)

    @property
    def _teachers(self) -> dict[str, Player]:
        """Name -> player: "teacher", or "teacher1", ..."""
        if not self._several:
            return {"teacher": self.teacher}
        return {f"teacher{i + 1}": player for i, player in enumerate(self.teacher)}

    @property
    def _weights(self) -> dict[str, float]:
        names = list(self._teachers)
        return dict(zip(names, self.teacher_weights or [1.0 / len(names)] * len(names), strict=True))

    def init(self, key, batch):
        params, extra = self._first_variables(key, batch.image)
        student, _ = self._look("student", params, extra, batch)
        frozen = self.frozen if batch.teacher_logits is None else {}
        lessons = self._lessons(frozen, batch)
        if "teacher" in lessons:
            params["method"], extra["method"] = self._method_init(key, student, lessons["teacher"], batch)
        else:
            params["method"], extra["method"] = {}, {}
            for i, (name, teacher) in enumerate(lessons.items()):
                its_params, memory = self._method_init(jax.random.fold_in(key, i), student, teacher, batch)
                params["method"][name], extra["method"][name] = its_params, memory
        return self._state(params, extra, frozen)

    @property
    def frozen(self):
        own = self.teacher_variables if self._several else (self.teacher_variables,)
        return dict(zip(self._teachers, own, strict=True))

    def losses(self, params, state, batch, key):
        lessons = self._lessons(state.frozen, batch)
        student, stats = self._look("student", params, state.extra, batch)
        own, memory = params["method"], state.extra["method"]
        if "teacher" in lessons:
            terms, memory = self._method(own, memory, student, lessons["teacher"], batch, key)
        else:
            terms, memories = {}, {}
            for i, (name, outputs) in enumerate(lessons.items()):
                its_key = jax.random.fold_in(key, i)
                its_terms, memories[name] = self._method(own[name], memory[name], student, outputs, batch, its_key)
                for term, value in its_terms.items():
                    terms[term] = terms.get(term, 0.0) + self._weights[name] * value
            memory = memories
        labels, counts = self._label_terms({"student": student}, batch, self._label_weight(batch))
        return {**labels, **terms}, ({"student": stats, "method": memory}, counts)

    def inspect(self, state, batch):
        lessons = self._lessons(state.frozen, batch)
        return {**super().inspect(state, batch), **{f"{name}'s logits": o.logits for name, o in lessons.items()}}

    def _lessons(self, frozen: dict, batch) -> dict[str, Outputs]:
        """Returns name -> teacher's outputs for each call of the method; the name of a single call is "teacher"."""
        if batch.teacher_logits is not None:
            if self._several:
                raise ValueError("The batch has the logits of one teacher, but the strategy has several.")
            return {"teacher": Outputs(logits=batch.teacher_logits, features=NoFeatures())}
        found = {name: self._taught(player, frozen[name], batch) for name, player in self._teachers.items()}
        if self.combine not in ensembles.COMBINED:
            return found
        outputs, weights = list(found.values()), list(self._weights.values())
        how = self.method, self.combine, self.weighting
        return {"teacher": ensembles.combined(outputs, weights, batch, self.task, *how)}
