"""ONE: the branches of one network are taught by their gated ensemble, which learns with them.

    z_e = sum_i g_i(x) z_i,   g = softmax(ReLU(BN(W pool(h) + b))),   h: the end of the shared trunk
    loss = sum_i L(z_i) + L(z_e) + weight * ramp * sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T))

L is the task's loss on labels.

Paper: Lan, Zhu, Gong. Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018. arXiv:1806.04606.

Branches are copies of the last stage and the classifier (transfer/branches.py). The ensemble is a constant in the last
term. The ramp is that of the released code, exp(-5 (1 - epoch / 80)^2) in 300 epochs; here the 80 are a share of the
training, and the epoch is continuous. The released code adds 1e-7 to the targets, which is left out.

The student is the first branch, a plain network; the others are kept too, and "ensemble" (ONE-E in the paper), with the
gate, is tested beside them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from models import Outputs
from models.layers import BatchNorm, Dense
from transfer.base import METHOD, Strategy, term_of
from transfer.branches import Branches, assembled, pooled, trunk_of
from transfer.peers import ramp_up


class Gate(nn.Module):
    """How much each branch counts, image by image.

    Attributes:
        count: branches.
    """

    count: int

    @nn.compact
    def __call__(self, feature, train: bool = False):
        """feature [B, ..., C] -> [B, count] float32, rows sum to 1."""
        x = Dense(self.count, name="score")(pooled(feature))
        return jax.nn.softmax(nn.relu(BatchNorm(name="bn")(x, train)))


def gated(weights: jax.Array, logits: list[jax.Array]) -> jax.Array:
    """sum_i weights[:, i] logits[i]: [B, K] of [B, n] and n times [B, K]."""
    return jnp.einsum("bn,nbk->bk", weights, jnp.stack(logits))


@dataclasses.dataclass(frozen=True)
class ONE(Strategy):
    """Branches of one network, each a student, are taught by their gated ensemble.

    Paper: Lan, Zhu, Gong, NeurIPS 2018, arXiv:1806.04606

    Attributes:
        branches: how many, the student's with them.
        weight: of the distillation loss.
        temperature: T, dimensionless.
        ramp: share of the training in which the distillation loss grows to its weight; 0: it is whole at once.
        train_epoch: epochs of the training; set by the engine. 0: not known, and the ramp is over.
    """

    branches: int = 3
    weight: float = 1.0
    temperature: float = 3.0
    ramp: float = 80 / 300
    train_epoch: int = 0

    def __post_init__(self):
        self._branches  # noqa: B018  # their number is checked

    @property
    def _branches(self) -> Branches:
        return Branches(self.student, self.branches)

    @property
    def _gate(self) -> Gate:
        return Gate(self.branches)

    def init(self, key, batch):
        params, extra = self._branches.init(key, batch.image)
        h = self._branches.look(params, extra, (batch.image,))[2]
        gate = self._gate.init(jax.random.fold_in(key, METHOD), h)
        params["gate"], extra["gate"] = gate["params"], {"batch_stats": gate["batch_stats"]}
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        outputs, extra, h = self._branches.look(params, state.extra, (batch.image,))
        gate = {"params": params["gate"], **state.extra["gate"]}
        weights, after = self._gate.apply(gate, h, train=True, mutable=["batch_stats"])
        extra["gate"] = {"batch_stats": after["batch_stats"]}
        together = gated(weights, [o.logits for o in outputs.values()])
        target = jax.lax.stop_gradient(together)
        ensemble = Outputs(logits=together, features={})
        terms, counts = self._label_terms({**outputs, "ensemble": ensemble}, batch)
        factor = self.weight * ramp_up(batch.epoch, self.ramp * self.train_epoch)
        for name, own in outputs.items():
            terms[term_of(name, "ONE")] = factor * kl_divergence(own.logits, target, self.temperature)
        return terms, (extra, counts)

    def learners(self, state):
        return self._branches.learners(state.params, state.extra)

    def tested(self, state):
        branches, gate = self._branches, self._gate

        def call(variables, image):
            tap = trunk_of(self.student.model, image.shape).tap
            outputs = [self.student.forward(variables[name], image)[0] for name in branches.names]
            weights = gate.apply(variables["gate"], outputs[0].features[tap])
            return gated(weights, [o.logits for o in outputs])

        variables = {name: branches.variables(state.params, state.extra, name) for name in branches.names}
        variables["gate"] = {"params": state.params["gate"], **state.extra["gate"]}
        return {"ensemble": (assembled(self.student, call), variables)}
