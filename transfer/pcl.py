"""PCL: peers are taught by a classifier on all their embeddings and by each other's running means.

    loss = L(z_e) + sum_k [L(z_k) + weight * ramp * T^2 (KL(q_e || q_k) + 1 / (m - 1) sum_{l != k} KL(p_l || q_k))]

L is the task's loss on labels.
q_k: peer k on its own random view of the images; z_e: a linear classifier of all peers' embeddings, put end to end;
p_l: the running mean of peer l, on l's view. q, p are softened by T.
    mean <- a mean + (1 - a) weights,   a = min(1 - 1 / (step + 1), decay), after each update

Paper: Wu, Gong. Peer Collaborative Learning for Online Knowledge Distillation. AAAI 2021. arXiv:2006.04147.

Peers are branches: copies of the last stage and the classifier on one trunk (transfer/branches.py). Teachers are
constants. The ramp exp(-5 (1 - epoch / 80)^2), of 300 epochs, is a share of the training here and continuous. The means
are asked in train mode and have batch statistics of their own, of which the paper says nothing.

The student is the first peer; the others are kept too, and so is "mean", the first peer's running mean. "ensemble"
(PCL-E), the classifier, is tested beside them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.normalised import embedding
from distiller.soft_logits import kl_divergence
from models import Outputs
from models.layers import Dense
from registry import UserError
from transfer.base import METHOD, Strategy, term_of
from transfer.branches import Branches, assembled
from transfer.peers import ramp_up


class Ensemble(nn.Module):
    """A linear classifier of several embeddings.

    Attributes:
        classes: K.
    """

    classes: int

    @nn.compact
    def __call__(self, embeddings):
        """List of [B, D] -> logits [B, K] float32."""
        together = jnp.concatenate([e.astype(jnp.float32) for e in embeddings], axis=-1)
        return Dense(self.classes, name="classifier")(together)


@dataclasses.dataclass(frozen=True)
class PCL(Strategy):
    """Branches of one network are taught by a classifier on all of them and by each other's running means.

    Paper: Wu, Gong, AAAI 2021, arXiv:2006.04147

    Attributes:
        branches: how many peers, the student with them.
        weight: of the distillation losses.
        temperature: T, dimensionless.
        ramp: share of the training in which the distillation losses grow to their weight; 0: they are whole at once.
        train_epoch: epochs of the training; set by the engine. 0: not known, and the ramp is over.
        decay: of the running means, at most.
    """

    branches: int = 3
    weight: float = 1.0
    temperature: float = 3.0
    ramp: float = 80 / 300
    train_epoch: int = 0
    decay: float = 0.999

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise UserError(f"'decay' must be from 0 to below 1; got {self.decay}.")
        self._branches  # noqa: B018  # their number is checked

    @property
    def views(self):
        return ("weak",) * self.branches

    @property
    def _branches(self) -> Branches:
        return Branches(self.student, self.branches)

    def init(self, key, batch):
        params, extra = self._branches.init(key, batch.image)
        mean = {"params": jax.tree.map(jnp.copy, params), "extra": jax.tree.map(jnp.copy, extra)}
        outputs, _, _ = self._branches.look(params, extra, (batch.image,))
        embeddings = [embedding(o, "student") for o in outputs.values()]
        classifier = Ensemble(outputs["student"].logits.shape[-1])
        params["ensemble"] = classifier.init(jax.random.fold_in(key, METHOD), embeddings)["params"]
        return self._state(params, {**extra, "ensemble": {}, "mean": mean})

    def losses(self, params, state, batch, key):
        images, mean = (batch.image, *batch.views), state.extra["mean"]
        outputs, extra, _ = self._branches.look(params, state.extra, images)
        means, its_extra, _ = self._branches.look(mean["params"], mean["extra"], images)
        means = {name: jax.lax.stop_gradient(o.logits) for name, o in means.items()}
        together = Ensemble(outputs["student"].logits.shape[-1]).apply(
            {"params": params["ensemble"]}, [embedding(o, "student") for o in outputs.values()]
        )
        target = jax.lax.stop_gradient(together)
        ensemble = Outputs(logits=together, features={})
        terms, counts = self._label_terms({**outputs, "ensemble": ensemble}, batch)
        factor = self.weight * ramp_up(batch.epoch, self.ramp * self.train_epoch)
        for name, own in outputs.items():
            others = [kl_divergence(own.logits, z, self.temperature) for n, z in means.items() if n != name]
            terms[term_of(name, "peer_ensemble")] = factor * kl_divergence(own.logits, target, self.temperature)
            terms[term_of(name, "peer_mean")] = factor * sum(others) / len(others)
        mean = {"params": mean["params"], "extra": jax.lax.stop_gradient(its_extra)}
        return terms, ({**extra, "ensemble": {}, "mean": mean}, counts)

    def step(self, state, batch, key):
        """One update, and the running means' step towards the new weights."""
        new, metrics = super().step(state, batch, key)
        done = state.step.astype(jnp.float32)
        keep = jnp.minimum(1.0 - 1.0 / (done + 1.0), self.decay)
        mean, now = new.extra["mean"], {name: new.params[name] for name in self._branches.names}
        params = jax.tree.map(lambda m, w: keep * m + (1.0 - keep) * w, mean["params"], now)
        return new.replace(extra={**new.extra, "mean": {**mean, "params": params}}), metrics

    def learners(self, state):
        mean = state.extra["mean"]
        found = self._branches.learners(state.params, state.extra)
        return {**found, "mean": (self.student, self._branches.variables(mean["params"], mean["extra"], "student"))}

    def tested(self, state):
        branches = self._branches

        def call(variables, image):
            outputs = [self.student.forward(variables[name], image)[0] for name in branches.names]
            classifier = Ensemble(outputs[0].logits.shape[-1])
            return classifier.apply({"params": variables["ensemble"]}, [o.features["embedding"] for o in outputs])

        variables = {name: branches.variables(state.params, state.extra, name) for name in branches.names}
        variables["ensemble"] = state.params["ensemble"]
        return {"ensemble": (assembled(self.student, call), variables)}
