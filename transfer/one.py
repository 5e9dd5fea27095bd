"""ONE: the branches of one network are taught by their gated ensemble, which learns with them.

    z_e = sum_i g_i(x) z_i,   g = softmax(ReLU(BN(W pool(h) + b))),   h: feature at the end of the shared trunk
    loss = sum_i L(z_i) + L(z_e) + weight * ramp * sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T))

L is the task's loss on labels.

Paper: Lan, Zhu, Gong. Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018. arXiv:1806.04606.

Branches are copies of the last stage and the classifier (transfer/branches.py). The ensemble is a constant in the last
term. The released code's ramp is exp(-5 (1 - epoch / 80)^2) in 300 epochs; here the ramp takes 80 / 300 of the
training, and the epoch is continuous. The released code adds 1e-7 to the targets; this file does not.

The student is the first branch, a plain network. All branches are kept, and the gated "ensemble" (ONE-E in the paper)
is tested beside them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from models import Outputs, stages
from models.layers import BatchNorm, Dense
from transfer.base import METHOD, term_of
from transfer.branches import Branched, pooled


class Gate(nn.Module):
    """The weight of each branch, image by image.

    Attributes:
        count: number of branches.
    """

    count: int

    @nn.compact
    def __call__(self, feature, train: bool = False):
        """Feature [B, ..., C] -> [B, count] float32; each row sums to 1."""
        x = Dense(self.count, name="score")(pooled(feature))
        return jax.nn.softmax(nn.relu(BatchNorm(name="bn")(x, train)))


def gated(weights: jax.Array, logits: list[jax.Array]) -> jax.Array:
    """sum_i weights[:, i] logits[i]: [B, K], of weights [B, n] and n arrays of logits [B, K]."""
    return jnp.einsum("bn,nbk->bk", weights, jnp.stack(logits))


@dataclasses.dataclass(frozen=True)
class ONE(Branched):
    """Branches of one network, each a student, are taught by their gated ensemble.

    Paper: Lan, Zhu, Gong, NeurIPS 2018, arXiv:1806.04606

    The options are those of `Branched`.
    """

    @property
    def _gate(self) -> Gate:
        return Gate(self.branches)

    def init(self, key, batch):
        params, extra = self._branches.init(key, batch.image)
        h = self._branches.look(params, extra, (batch.image,), batch)[2]
        gate = self._gate.init(jax.random.fold_in(key, METHOD), h)
        params["gate"], extra["gate"] = gate["params"], {"batch_stats": gate["batch_stats"]}
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        outputs, extra, h = self._branches.look(params, state.extra, (batch.image,), batch)
        gate = {"params": params["gate"], **state.extra["gate"]}
        weights, after = self._gate.apply(gate, h, train=True, mutable=["batch_stats"])
        extra["gate"] = {"batch_stats": after["batch_stats"]}
        together = gated(weights, [o.logits for o in outputs.values()])
        target = jax.lax.stop_gradient(together)
        ensemble = Outputs(logits=together, features={})
        terms, counts = self._label_terms({**outputs, "ensemble": ensemble}, batch)
        factor = self._factor(batch.epoch)
        for name, own in outputs.items():
            terms[term_of(name, "ONE")] = factor * kl_divergence(own.logits, target, self.temperature)
        return terms, (extra, counts)

    def tested(self, state):
        def join(gate, outputs):
            weights = self._gate.apply(gate, stages(outputs[0].features)[-2])
            return gated(weights, [o.logits for o in outputs])

        return self._ensemble(state, {"params": state.params["gate"], **state.extra["gate"]}, join)
