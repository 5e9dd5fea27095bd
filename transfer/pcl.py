"""PCL: peers are taught by a classifier on all their embeddings and by each other's running means.

    loss = L(z_e) + sum_k [L(z_k) + weight * ramp * T^2 (KL(q_e || q_k) + 1 / (m - 1) sum_{l != k} KL(p_l || q_k))]

    mean <- a mean + (1 - a) weights,   a = min(1 - 1 / (step + 1), decay), after each update

L is the task's loss on labels. q_k is the prediction of peer k on its own random view of the images. z_e are the logits
of a linear classifier on the concatenated embeddings of all peers, and q_e is its prediction. p_l is the prediction of
peer l's running mean on l's view. All predictions are softened by T.

Paper: Wu, Gong. Peer Collaborative Learning for Online Knowledge Distillation. AAAI 2021. arXiv:2006.04147.

Peers are branches: copies of the last stage and the classifier on one trunk (transfer/branches.py). Teachers are
constants. The paper's ramp is exp(-5 (1 - epoch / 80)^2) in 300 epochs; here the ramp takes 80 / 300 of the training,
and the epoch is continuous. The running means are in train mode and have batch statistics of their own; the paper
mentions neither.

The student is the first peer. All peers are kept, and so is "mean", the first peer's running mean. "ensemble" (PCL-E),
the classifier, is tested beside them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.normalised import embedding
from distiller.soft_logits import kl_divergence
from models import Outputs
from models.layers import Dense
from options import between
from transfer.base import METHOD, term_of
from transfer.branches import Branched


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
class PCL(Branched):
    """Branches of one network are taught by a classifier on all of them and by each other's running means.

    Paper: Wu, Gong, AAAI 2021, arXiv:2006.04147

    Further options are those of `Branched`.

    Attributes:
        decay: the largest decay of the running means.
    """

    decay: float = between(0, 1, 0.999, with_high=False)

    @property
    def views(self):
        return ("weak",) * self.branches

    def init(self, key, batch):
        params, extra = self._branches.init(key, batch.image)
        mean = {"params": jax.tree.map(jnp.copy, params), "extra": jax.tree.map(jnp.copy, extra)}
        outputs, _, _ = self._branches.look(params, extra, (batch.image,), batch)
        embeddings = [embedding(o, "student") for o in outputs.values()]
        classifier = Ensemble(outputs["student"].logits.shape[-1])
        params["ensemble"] = classifier.init(jax.random.fold_in(key, METHOD), embeddings)["params"]
        return self._state(params, {**extra, "ensemble": {}, "mean": mean})

    def losses(self, params, state, batch, key):
        images, mean = (batch.image, *batch.views), state.extra["mean"]
        outputs, extra, _ = self._branches.look(params, state.extra, images, batch)
        means, its_extra, _ = self._branches.look(mean["params"], mean["extra"], images, batch)
        means = {name: jax.lax.stop_gradient(o.logits) for name, o in means.items()}
        together = Ensemble(outputs["student"].logits.shape[-1]).apply(
            {"params": params["ensemble"]}, [embedding(o, "student") for o in outputs.values()]
        )
        target = jax.lax.stop_gradient(together)
        ensemble = Outputs(logits=together, features={})
        terms, counts = self._label_terms({**outputs, "ensemble": ensemble}, batch)
        factor = self._factor(batch.epoch)
        for name, own in outputs.items():
            others = [kl_divergence(own.logits, z, self.temperature) for n, z in means.items() if n != name]
            terms[term_of(name, "peer_ensemble")] = factor * kl_divergence(own.logits, target, self.temperature)
            terms[term_of(name, "peer_mean")] = factor * sum(others) / len(others)
        mean = {"params": mean["params"], "extra": jax.lax.stop_gradient(its_extra)}
        return terms, ({**extra, "ensemble": {}, "mean": mean}, counts)

    def step(self, state, batch, key):
        new, metrics = super().step(state, batch, key)
        done = state.step.astype(jnp.float32)
        keep = jnp.minimum(1.0 - 1.0 / (done + 1.0), self.decay)
        mean, now = new.extra["mean"], {name: new.params[name] for name in self._branches.names}
        params = jax.tree.map(lambda m, w: keep * m + (1.0 - keep) * w, mean["params"], now)
        return new.replace(extra={**new.extra, "mean": {**mean, "params": params}}), metrics

    def learners(self, state):
        mean = state.extra["mean"]
        found = super().learners(state)
        return {**found, "mean": (self.student, self._branches.variables(mean["params"], mean["extra"], "student"))}

    def tested(self, state):
        def join(classifier, outputs):
            embeddings = [o.features["embedding"] for o in outputs]
            return Ensemble(outputs[0].logits.shape[-1]).apply({"params": classifier}, embeddings)

        return self._ensemble(state, state.params["ensemble"], join)
