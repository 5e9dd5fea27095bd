"""BornAgain: each generation of the student teaches the next.

    generation 1: L,   generation g: ce_weight * L + method(student, generation g - 1)

L is the task's loss on labels.

Paper: Furlanello, Lipton, Tschannen, Itti, Anandkumar. Born Again Neural Networks. ICML 2018. arXiv:1805.04770.

Each generation has `train_epoch` epochs, so the run is `generations` times as long. Each generation starts with fresh
weights and a fresh optimizer, and its learning rate starts again. A method's first phase comes before each generation
but the first. The teacher is in eval mode and sees the student's views. If all labels are known, generation 1 equals
the strategy `Labels` bit for bit. If some are withheld, generation 1 also sees the images without a label, which move
its batch statistics.

The learner "student" is the present generation. The learners "generation1", "generation2", ... are the generations
before the last; until a generation has ended, its learner has the present weights. The ensemble "generations" is the
mean of all their probabilities (the paper's BANE). Only tests of the last generation can be the best.

`extra["generations"]` holds the present generation's number from 0, the method's first variables, and a slot for each
generation but the last. A slot first holds the initial weights of the next generation. When that generation starts, the
slot and the student swap weights. Then the slot holds the last weights of its own generation.
"""

import dataclasses

import jax
import jax.numpy as jnp

from options import at_least
from transfer.base import STUDENT, Strategy, where


@dataclasses.dataclass(frozen=True)
class BornAgain(Strategy):
    """Each generation of the student teaches the next one, which starts with fresh weights.

    Paper: Furlanello, Lipton, Tschannen, Itti, Anandkumar, ICML 2018, arXiv:1805.04770

    Attributes:
        generations: number of generations, the first included.
        train_epoch: epochs of a generation; the engine sets it.
    """

    generations: int = at_least(1, 3)
    train_epoch: int = 1
    reads = ("distiller",)

    def epochs(self, train_epoch):
        return self._start(self.generations, train_epoch)

    def best_after(self, train_epoch):
        return self._start(self.generations - 1, train_epoch)

    def init(self, key, batch):
        params, extra = self._first_variables(key, batch.image)
        own = jax.random.fold_in(key, STUDENT)
        later = [self.student.init(jax.random.fold_in(own, i), batch.image) for i in range(1, self.generations)]
        student, _ = self._look("student", params, extra, batch)
        teacher = self._taught(self.student, {"params": params["student"], **extra["student"]}, batch)
        params["method"], extra["method"] = self._method_init(key, student, teacher, batch)
        fresh = jax.tree.map(jnp.copy, {"params": params["method"], "memory": extra["method"]})
        extra["generations"] = {"number": jnp.zeros((), jnp.int32), "slots": later, "fresh": fresh}
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        generations = state.extra["generations"]
        labels_only = generations["number"] == 0
        student, stats = self._look("student", params, state.extra, batch)
        if len(self.views) > 1:  # training on labels alone sees the first view only
            _, first = self.student.look(state.variables("student", params), batch, train=True)
            stats = where(labels_only, {"batch_stats": first}, stats)
        weight = 1.0 if not generations["slots"] else jnp.where(labels_only, 1.0, self._label_weight(batch))
        labels, counts = self._label_terms({"student": student}, batch, weight)
        extra = {**state.extra, "student": stats}
        if not generations["slots"]:
            return labels, (extra, counts)
        teacher = self._taught(self.student, self._before(generations), batch)
        terms, memory = self._method(params["method"], state.extra["method"], student, teacher, batch, key)
        terms = {name: jnp.where(labels_only, 0.0, value) for name, value in terms.items()} | labels
        return terms, ({**extra, "method": memory}, counts)

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
                where(ended, slot, found["student"][1]),
            )
        return found

    def ensembles(self, logits):
        if self.generations == 1:
            return {}
        said = jnp.stack([jax.nn.log_softmax(jnp.asarray(z)) for z in logits.values()])
        return {"generations": jax.nn.logsumexp(said, axis=0) - jnp.log(jnp.float32(len(said)))}

    def _start(self, generation: int, train_epoch: int) -> int:
        """Returns the epoch at which a generation, counted from 0, begins; generation `generations` is the end."""
        return generation * train_epoch + max(generation - 1, 0) * self._first_phase

    def _present(self, state, batch):
        """Begins a generation if one is due.

        Returns:
            (state, batch). In the first step of a generation, the state has the generation's initial variables. The
            batch's epoch counts from the generation's start.
        """
        starts = [self._start(i, self.train_epoch) for i in range(self.generations)]
        number = sum(((batch.epoch >= start).astype(jnp.int32) for start in starts[1:]), jnp.zeros((), jnp.int32))
        # The first generation has no first phase, so its epochs count as if such a phase had just ended.
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
            student = where(here, slot, student)
            slots.append(where(here, old, slot))
        fresh = generations["fresh"]
        params = {"student": student["params"], "method": where(born, fresh["params"], params["method"])}
        extra = {
            "student": {"batch_stats": student["batch_stats"]},
            "method": where(born, fresh["memory"], state.extra["method"]),
            "generations": {"number": number, "slots": slots, "fresh": fresh},
        }
        opt_state = where(born, self.optimizer.init(params), state.opt_state)
        return state.replace(params=params, extra=extra, opt_state=opt_state), batch

    def _before(self, generations: dict) -> dict:
        """Returns the variables of the generation before the present one."""
        found = generations["slots"][0]
        for i, slot in enumerate(generations["slots"][1:], start=2):
            found = where(generations["number"] == i, slot, found)
        return found
