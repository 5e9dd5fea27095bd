"""KDCL: peers learn from an ensemble of them that is better than each, on distorted images.

    loss = sum_k CE(k, labels) + weight * T^2 KL(softmax(z_t / T) || softmax(z_k / T))

The ensemble's logits z_t are, per image:
- "naive": those of the peer with the lowest cross-entropy.
- "linear": sum_k a_k z_k, where a >= 0, sum a = 1 minimises the batch's cross-entropy: one convex problem a step.
- "minlogit": min_k (z_k - z_k[label]) in each class: the label's logit is 0 and no other is higher than any peer's.

Paper: Guo, Wang, Wu, Yu, Liang, Hu, Luo. Online Knowledge Distillation via Collaborative Learning. CVPR 2020.

Each peer sees a random view of its own (the paper's invariant collaborative learning), `own_views=False` shows all the
same. Ours: naive's peer is chosen for each image; the linear problem is solved by a fixed number of steps of
exponentiated gradients (within 0.2 % of the lowest cross-entropy in tests); weight 1 and temperature 2. Rows without a
label, for which no peer is known to be better, get the mean of the logits (linear: the weights that the labelled rows
have found). The paper's fourth ensemble, "general", weighs peers by their errors on a part of the training set that is
held back, and is not here.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from registry import UserError
from transfer.base import Player, Strategy, label_loss, label_weights
from transfer.peers import first_variables, mean_prediction, players_of, refuse_one_in

ENSEMBLES = ("naive", "linear", "minlogit")
STEPS = 50  # towards the linear ensemble's weights


def row_entropy(logits: jax.Array, batch) -> jax.Array:
    """Cross-entropy with the labels (both by their shares, where images are mixed) per row; 0 where they are withheld.

    [..., B] from [..., B, K].
    """
    logs = jax.nn.log_softmax(logits)

    def of(label):
        index = jnp.broadcast_to(jnp.maximum(label, 0)[:, None], (*logs.shape[:-1], 1))
        return -jnp.take_along_axis(logs, index, axis=-1)[..., 0]

    first, second = label_weights(logs.dtype, batch.label, batch.second_label, batch.share)
    rows = first * of(batch.label)
    return rows if batch.second_label is None else rows + second * of(batch.second_label)


def known(batch, dtype=jnp.float32) -> jax.Array:
    """[B]: the share of the row whose label is known."""
    first, second = label_weights(dtype, batch.label, batch.second_label, batch.share)
    return first + second


def naive(logits: jax.Array, batch) -> jax.Array:
    """[n, B, K] -> [B, K]: each row from the peer with the lowest cross-entropy, the first of equals."""
    best = jnp.argmin(row_entropy(logits, batch), axis=0)
    return jnp.take_along_axis(logits, best[None, :, None], axis=0)[0]


def linear_weights(logits: jax.Array, batch) -> jax.Array:
    """[n, B, K] -> [n]: weights on the simplex that (nearly) minimise the labelled rows' mean cross-entropy."""
    whole = jnp.sum(known(batch, logits.dtype))

    def entropy(weights):
        rows = row_entropy(jnp.einsum("n,nbk->bk", weights, logits), batch)
        return jnp.sum(rows) / jnp.where(whole > 0, whole, 1.0)

    def step(number, logs):
        gradient = jax.grad(entropy)(jax.nn.softmax(logs))
        slope = gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), 1e-12)  # scale-free: logits grow in training
        return jax.nn.log_softmax(logs - slope / jnp.sqrt(1.0 + number.astype(logs.dtype)))

    start = jnp.zeros(logits.shape[0], logits.dtype)
    return jax.nn.softmax(jax.lax.fori_loop(0, STEPS, step, start))


def minlogit(logits: jax.Array, batch) -> jax.Array:
    """[n, B, K] -> [B, K]: the lowest of the peers' logits, counted from that of the (first known) label."""
    label = batch.label if batch.second_label is None else jnp.where(batch.label < 0, batch.second_label, batch.label)
    label = jnp.maximum(label, 0)
    index = jnp.broadcast_to(label[:, None], (*logits.shape[:-1], 1))
    return jnp.min(logits - jnp.take_along_axis(logits, index, axis=-1), axis=0)


def ensemble(kind: str, logits: jax.Array, batch) -> jax.Array:
    """The teacher's logits [B, K] of the peers' [n, B, K]; the mean in rows without a label. `batch` as in the step."""
    mean = jnp.mean(logits, axis=0)
    if kind == "linear":
        return jnp.einsum("n,nbk->bk", linear_weights(logits, batch), logits)
    chosen = naive(logits, batch) if kind == "naive" else minlogit(logits, batch)
    return jnp.where(known(batch)[:, None] > 0, chosen, mean)


@dataclasses.dataclass(frozen=True)
class KDCL(Strategy):
    """Peers learn from labels and from an ensemble of their logits, each on a view of its own.

    Paper: Guo, Wang, Wu, Yu, Liang, Hu, Luo, CVPR 2020

    Attributes:
        peers: the student's peers, one or more.
        ensemble: "naive", "linear" or "minlogit".
        weight: of the distillation loss.
        temperature: T, dimensionless.
        own_views: each peer sees another random view of each image.
    """

    peers: tuple[Player, ...]
    ensemble: str = "naive"
    weight: float = 1.0
    temperature: float = 2.0
    own_views: bool = True
    teachers = "peers"

    def __post_init__(self):
        refuse_one_in("ensemble", self.ensemble, ENSEMBLES)
        if self.weight < 0:
            raise UserError(f"'weight' must not be negative; got {self.weight}.")
        self._players  # noqa: B018  # the names are checked

    @property
    def _players(self) -> dict[str, Player]:
        return players_of(self.student, self.peers)

    @property
    def views(self):
        return ("weak",) * (len(self._players) if self.own_views else 1)

    def init(self, key, batch):
        params, extra = first_variables(self._players, key, batch.image)
        return self._state(params, extra)

    def losses(self, params, state, batch, key):
        images = (batch.image, *batch.views) if self.own_views else (batch.image,) * len(self._players)
        logits, extra = {}, {}
        for (name, player), image in zip(self._players.items(), images, strict=True):
            outputs, stats = player.forward({"params": params[name], **state.extra[name]}, image, train=True)
            logits[name], extra[name] = outputs.logits, {"batch_stats": stats}
        target = ensemble(self.ensemble, jax.lax.stop_gradient(jnp.stack(list(logits.values()))), batch)
        terms, counts = {}, {}
        for name, own in logits.items():
            start = "" if name == "student" else f"{name}/"
            entropy, its_counts = label_loss(own, batch.label, batch.second_label, batch.share)
            counts = counts or its_counts
            terms[f"{start}cross_entropy"] = entropy
            terms[f"{start}KDCL"] = self.weight * kl_divergence(own, target, self.temperature)
        return terms, (extra, counts)

    def learners(self, state):
        return {n: (p, {"params": state.params[n], **state.extra[n]}) for n, p in self._players.items()}

    def ensembles(self, logits):
        return {"ensemble": mean_prediction([logits[name] for name in self._players])}
