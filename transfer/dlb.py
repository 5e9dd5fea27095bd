"""DLB: the student's predictions for the previous batch teach the student on the same images.

    loss = L(previous and current images) + weight * T^2 * mean_b KL(q_b || softmax(z_b / T))

L is the task's loss on labels. The mean is over the previous step's images b, and q_b are the predictions, softened by
T, that the student made for them in the previous step.

Paper: Shen, Xu, Yang, Li, Guo. Self-Distillation from the Last Mini-Batch for Consistency Regularization. CVPR 2022.
arXiv:2203.16172.

As in the paper, previous and current images pass the network as one batch. The memory holds the logits in train mode,
before the update. In the first step, or after a skipped one, the memory is not of the previous images. Then the current
images replace the previous ones and the divergence is 0, so the step uses the current images alone.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from options import not_negative, positive
from transfer.alone import Alone


@dataclasses.dataclass(frozen=True)
class DLB(Alone):
    """The student's predictions of the previous step teach the student on the same images, augmented anew.

    Paper: Shen, Xu, Yang, Li, Guo, CVPR 2022, arXiv:2203.16172

    Attributes:
        temperature: T, dimensionless.
        weight: of the divergence.
    """

    temperature: float = positive(3.0)
    weight: float = not_negative(1.0)
    views = ("weak", "previous")

    def memory(self, student, batch):
        return {"logits": jnp.zeros_like(student.logits), "index": jnp.full_like(batch.index, -1)}

    def losses(self, params, state, batch, key):
        last, memory = batch.previous, state.extra["method"]
        known = jnp.all(memory["index"] == last.index)

        def both(name):
            now, before = getattr(batch, name), getattr(last, name)
            return None if now is None else jnp.concatenate([jnp.where(known, before, now), now])

        pair = batch.replace(**{name: both(name) for name in ("image", "label", "second_label", "share")})
        variables, rngs = state.variables("student", params), self.student.rngs(batch)
        outputs, stats = self.student.forward(variables, pair.image, train=True, rngs=rngs)
        again, logits = jnp.split(outputs.logits, 2)
        labels, counts = self._label_terms({"student": outputs}, pair)
        loss = self.weight * kl_divergence(again, memory["logits"], self.temperature)
        memory = {"logits": jax.lax.stop_gradient(logits), "index": batch.index}
        terms = {**labels, "DLB": jnp.where(known, loss, 0.0)}
        return terms, ({"student": {"batch_stats": stats}, "method": memory}, counts)
