"""DLB: the last batch teaches this one."""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from transfer.alone import Alone


@dataclasses.dataclass(frozen=True)
class DLB(Alone):
    """What the student said a step ago teaches it on the same images, augmented anew.

    Paper: Shen, Xu, Yang, Li, Guo. Self-Distillation from the Last Mini-Batch for Consistency Regularization.
    CVPR 2022. arXiv:2203.16172

        loss = L(previous and current images) + weight * T^2 * mean_b KL(q_b || softmax(z_b / T))

    L is the task's loss on labels.
    The mean goes over the previous step's images b; q are their soft targets from that step. As in the paper, previous
    and current images go through the network as one batch, and the logits are remembered as they were in training mode,
    before the update. In the first step, or after a skipped one, nothing is remembered: the current images then stand
    in the place of the previous ones, and the divergence is 0.

    Attributes:
        temperature: T, dimensionless.
        weight: of the divergence.
    """

    temperature: float = 3.0
    weight: float = 1.0
    views = ("weak", "previous")

    def memory(self, student, batch):
        index = jnp.full_like(batch.index, -1)
        return {"logits": jnp.zeros_like(student.logits), "index": index}

    def losses(self, params, state, batch, key):
        last, memory = batch.previous, state.extra["method"]
        known = jnp.all(memory["index"] == last.index)

        def both(name):
            now, before = getattr(batch, name), getattr(last, name)
            return None if now is None else jnp.concatenate([jnp.where(known, before, now), now])

        image, mixed = both("image"), {"second_label": both("second_label"), "share": both("share")}
        outputs, stats = self.student.forward(state.variables("student", params), image, train=True)
        again, logits = jnp.split(outputs.logits, 2)
        labels, counts = self._label_terms({"student": outputs}, batch.replace(label=both("label"), **mixed))
        loss = self.weight * kl_divergence(again, memory["logits"], self.temperature)
        memory = {"logits": jax.lax.stop_gradient(logits), "index": batch.index}
        terms = {**labels, "DLB": jnp.where(known, loss, 0.0)}
        return terms, ({"student": {"batch_stats": stats}, "method": memory}, counts)
