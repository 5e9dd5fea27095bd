"""BornAgain: each generation of the student teaches the next."""

import dataclasses

import jax
import jax.numpy as jnp

from registry import UserError
from transfer.base import STUDENT, Strategy, _where


@dataclasses.dataclass(frozen=True)
class BornAgain(Strategy):
    """Each generation of the student, once trained, teaches a freshly initialised next one.

    Paper: Furlanello, Lipton, Tschannen, Itti, Anandkumar. Born Again Neural Networks. ICML 2018. arXiv:1805.04770

        generation 1: label loss,   generation g: ce_weight * label loss + method(student, generation g - 1)

    Each generation has `train_epoch` epochs, so the run is `generations` times as long, and starts with weights,
    optimizer and learning rate of its own. A method's first phase comes before each generation but the first. The
    teacher is in eval mode and sees the student's views. Generation 1 is label-only training to the bit (while all
    labels are known: where some are withheld, it also sees the images without one, which move its batch statistics).

    "student" is the present generation, "generation1" ... those before (the present one where they are still to come),
    and the ensemble "generations" the mean of all their probabilities (the paper's BANE).

    `extra["generations"]` holds the number of the present one from 0, the method's first variables, and a slot for
    each generation but the last: first the initial weights of the one after it, then its own last weights, by swapping.

    The best test is one of the last generation's.

    Attributes:
        generations: how many, the first among them.
        train_epoch: epochs of a generation; set by the engine.
        method: a distiller.
    """

    generations: int = 3
    train_epoch: int = 1
    reads = ("distiller",)

    def __post_init__(self):
        if self.generations < 1:
            raise UserError(f"BornAgain's generations are 1 or more; got {self.generations}.")

    def epochs(self, train_epoch):
        return self._start(self.generations, train_epoch)

    def best_after(self, train_epoch):
        return self._start(self.generations - 1, train_epoch)

    def init(self, key, batch):
        keys = [jax.random.fold_in(key, STUDENT)]
        keys += [jax.random.fold_in(keys[0], generation) for generation in range(1, self.generations)]
        first, *later = [self.student.init(key, batch.image) for key in keys]
        student, _ = self._look(self.student, first, batch)
        params, memory = self._method_init(key, student, self._teacher(first, batch), batch)
        fresh = {"params": params, "memory": memory}
        generations = {"number": jnp.zeros((), jnp.int32), "slots": later, "fresh": jax.tree.map(jnp.copy, fresh)}
        extra = {"student": {"batch_stats": first["batch_stats"]}, "method": memory, "generations": generations}
        return self._state({"student": first["params"], "method": params}, extra)

    def losses(self, params, state, batch, key):
        generations, views = state.extra["generations"], len(self.method.views)
        labels_only = generations["number"] == 0
        variables = state.variables("student", params)
        student, stats = self._look(self.student, variables, batch)
        if views > 1:  # label-only training sees the first one only
            _, first = self.student.forward(variables, batch.image, train=True)
            stats = _where(labels_only, first, stats)
        weight = 1.0 if not generations["slots"] else jnp.where(labels_only, 1.0, self._label_weight(batch))
        labels, counts = self._label_terms({"student": student}, batch, weight)
        if not generations["slots"]:
            extra = {"student": {"batch_stats": stats}, "method": state.extra["method"], "generations": generations}
            return labels, (extra, counts)
        teacher = self._teacher(self._before(generations), batch)
        terms, memory = self._method(params["method"], state.extra["method"], student, teacher, batch, key)
        terms = {name: jnp.where(labels_only, 0.0, value) for name, value in terms.items()} | labels
        extra = {"student": {"batch_stats": stats}, "method": memory, "generations": generations}
        return terms, (extra, counts)

    def step(self, state, batch, key):
        return super().step(*self._present(state, batch), key)

    def shares(self, state, batch, key):
        return super().shares(*self._present(state, batch), key)

    def learners(self, state):
        found, generations = super().learners(state), state.extra["generations"]
        for i, slot in enumerate(generations["slots"]):
            ended = generations["number"] > i
            found[f"generation{i + 1}"] = (
                dataclasses.replace(self.student, name=f"generation{i + 1}"),
                _where(ended, slot, found["student"][1]),
            )
        return found

    def ensembles(self, logits):
        if self.generations == 1:
            return {}
        said = jnp.stack([jax.nn.log_softmax(jnp.asarray(z)) for z in logits.values()])
        return {"generations": jax.nn.logsumexp(said, axis=0) - jnp.log(jnp.float32(len(said)))}

    def _start(self, generation: int, train_epoch: int) -> int:
        """Epoch at which a generation, from 0, begins; that of `generations` is the end."""
        return generation * train_epoch + max(generation - 1, 0) * self._first_phase

    def _present(self, state, batch):
        """(the state, in the first step of a generation with what that starts from; the batch in its own epochs)."""
        starts = [self._start(i, self.train_epoch) for i in range(self.generations)]
        number = sum(((batch.epoch >= start).astype(jnp.int32) for start in starts[1:]), jnp.zeros((), jnp.int32))
        # a method's first phase lies before the first generation, which has none
        offsets = jnp.asarray([-self.method.first_phase_epochs, *starts[1:]], batch.epoch.dtype)
        batch = batch.replace(epoch=batch.epoch - offsets[number])
        generations = state.extra["generations"]
        if not generations["slots"]:
            return state, batch
        born = number != generations["number"]
        params, slots = state.params, []
        student = old = self.student_variables(state)
        for i, slot in enumerate(generations["slots"]):
            here = born & (number == i + 1)
            student = _where(here, slot, student)
            slots.append(_where(here, old, slot))
        fresh = generations["fresh"]
        params = {"student": student["params"], "method": _where(born, fresh["params"], params["method"])}
        extra = {
            "student": {"batch_stats": student["batch_stats"]},
            "method": _where(born, fresh["memory"], state.extra["method"]),
            "generations": {"number": number, "slots": slots, "fresh": fresh},
        }
        opt_state = _where(born, self.optimizer.init(params), state.opt_state)
        return state.replace(params=params, extra=extra, opt_state=opt_state), batch

    def _before(self, generations: dict) -> dict:
        """Variables of the generation before the present one."""
        found = generations["slots"][0]
        for i, slot in enumerate(generations["slots"][1:], start=2):
            found = _where(generations["number"] == i, slot, found)
        return found

    def _teacher(self, variables, batch):
        return jax.lax.stop_gradient(self._look(self.student, variables, batch, train=False)[0])
