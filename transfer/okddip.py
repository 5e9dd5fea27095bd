"""OKDDip: each peer is taught by its own mixture of the peers, and a group leader by their mean.

    a_kl = softmax_l((W_1 h_k) . (W_2 h_l)),   h: embeddings;   t_k = sum_l a_kl q_l,   q = softmax(z / T)
    loss = L(leader) + sum_k L(k) + weight * ramp * T^2 (sum_k KL(t_k || q_k) + KL(mean_k q_k || q_leader))

L is the task's loss on labels.

Paper: Chen, Mei, Wang, Feng, Chen. Online Knowledge Distillation with Diverse Peers. AAAI 2020. arXiv:1912.00350.

The student is the leader; the peers only help in training. `shared=True` is the paper's branch-based group (copies of
the last stage on one trunk, transfer/branches.py), False the paper's network-based group (whole networks). W_1 and W_2
reduce the embedding to an eighth of its width. They learn through a_kl in the targets; the predictions and embeddings
in the targets are constants. `as_released` is the released code's form: the targets mix logits instead of
probabilities, and the gradient flows through the whole target. The released code's ramp is
exp(-5 (1 - epoch / 80)^2) in 300 epochs; here the ramp takes 80 / 300 of the training, and the epoch is continuous.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.normalised import embedding
from options import at_least
from transfer.base import METHOD, term_of
from transfer.branches import Branched, Branches
from transfer.peers import divergence, mean_prediction

REDUCTION = 8


class Attention(nn.Module):
    """The weight of each peer in each peer's mixture, image by image."""

    @nn.compact
    def __call__(self, embeddings):
        """Embeddings [n, B, D] -> [B, n, n] float32: row k has the logarithms of the weights in peer k's mixture."""
        width = max(1, embeddings.shape[-1] // REDUCTION)
        query = nn.Dense(width, use_bias=False, name="query")(embeddings)
        memory = nn.Dense(width, use_bias=False, name="key")(embeddings)
        return jax.nn.log_softmax(jnp.einsum("kbd,lbd->bkl", query, memory))


@dataclasses.dataclass(frozen=True)
class OKDDip(Branched):
    """Peers learn from attention-weighted mixtures of each other, and the student, their leader, from their mean.

    Paper: Chen, Mei, Wang, Feng, Chen, AAAI 2020, arXiv:1912.00350

    Further options are those of `Branched`.

    Attributes:
        branches: number of networks, three or more: a leader and two peers at least.
        shared: the networks have a trunk in common; False: they are whole networks.
        as_released: targets are mixtures of logits, and the gradient flows through them.
    """

    branches: int = at_least(3, 4)
    shared: bool = True
    as_released: bool = False

    @property
    def _branches(self) -> Branches:
        return Branches(self.student, self.branches, self.shared)

    def init(self, key, batch):
        params, extra = self._branches.init(key, batch.image)
        outputs, _, _ = self._branches.look(params, extra, (batch.image,), batch)
        params["attention"] = Attention().init(jax.random.fold_in(key, METHOD), _embeddings(outputs))["params"]
        return self._state(params, {**extra, "attention": {}})

    def losses(self, params, state, batch, key):
        outputs, extra, _ = self._branches.look(params, state.extra, (batch.image,), batch)
        leader, peers = outputs["student"], [o for name, o in outputs.items() if name != "student"]
        constant = (lambda x: x) if self.as_released else jax.lax.stop_gradient
        weights = Attention().apply({"params": params["attention"]}, constant(_embeddings(outputs)))
        logits = constant(jnp.stack([peer.logits for peer in peers]))
        own_targets, group_target = self._targets(weights, logits)
        factor = self._factor(batch.epoch)
        terms, counts = self._label_terms({"student": leader, **outputs}, batch)
        targets = {"student": group_target} | dict(zip(self._branches.names[1:], own_targets, strict=True))
        for name, own in {"student": leader, **outputs}.items():
            terms[term_of(name, "OKDDip")] = factor * divergence(own.logits, targets[name], self.temperature)
        return terms, ({**extra, "attention": {}}, counts)

    def _targets(self, weights, logits):
        """Returns the logarithms of the targets: ([n, B, K] for the peers, [B, K] for the leader).

        Args:
            weights: [B, n, n], as `Attention` returns them.
            logits: the peers' [n, B, K].
        """
        if self.as_released:
            mixed, mean = jnp.einsum("bkl,lbc->kbc", jnp.exp(weights), logits), jnp.mean(logits, axis=0)
            return jax.nn.log_softmax(mixed / self.temperature), jax.nn.log_softmax(mean / self.temperature)
        soft = jax.nn.log_softmax(logits / self.temperature)
        parts = jnp.moveaxis(weights, 0, 2)[..., None] + soft  # [n, n, B, K]
        return jax.nn.logsumexp(parts, axis=1), jax.nn.logsumexp(soft, axis=0) - jnp.log(jnp.float32(len(soft)))

    def ensembles(self, logits):
        return {"ensemble": mean_prediction([logits[name] for name in self._branches.names[1:]])}


def _embeddings(outputs):
    """Returns the peers' embeddings [n, B, D] float32."""
    return jnp.stack([embedding(o, "student") for name, o in outputs.items() if name != "student"])
