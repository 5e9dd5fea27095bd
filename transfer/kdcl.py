"""KDCL: peers learn from an ensemble of their logits; each peer sees its own random view of the images.

    loss = sum_k L(k) + weight * T^2 KL(softmax(z_t / T) || softmax(z_k / T))

L is the task's loss on labels.
The ensemble's logits z_t are, per image:
- "naive": those of the peer with the lowest label loss.
- "linear": sum_k a_k z_k, where a >= 0, sum a = 1 minimises the batch's label loss: one convex problem per step.
- "minlogit": min_k (z_k - z_k[label]) in each class: the label's logit is 0, every other is the peers' lowest.

Paper: Guo, Wang, Wu, Yu, Liang, Hu, Luo. Online Knowledge Distillation via Collaborative Learning. CVPR 2020.

Each peer sees a random view of its own (the paper's invariant collaborative learning); with `own_views=False` all see
the same. The paper leaves these points open, and we chose: "naive" chooses a peer for each image; a fixed number of
steps of exponentiated gradients solves the linear problem (within 0.2 % of the lowest loss in tests); weight 1 and
temperature 2. For a row without a label the ensemble is the mean of the logits ("linear" uses the weights from the
labelled rows). The paper's fourth ensemble, "general", weighs peers by their errors on held-back training images. That
ensemble is not implemented.
"""

import dataclasses

import jax
import jax.numpy as jnp

from distiller.soft_logits import kl_divergence
from options import not_negative, one_of, positive
from tasks.classification import Classification
from transfer.base import term_of
from transfer.peers import Group

CLASSIFICATION = Classification()
ENSEMBLES = ("naive", "linear", "minlogit")
STEPS = 50  # gradient steps for the weights of the linear ensemble


def naive(logits: jax.Array, batch, task=CLASSIFICATION) -> jax.Array:
    """[n, B, K] -> [B, K]: each row from the peer with the lowest label loss; from the first of equal peers."""
    best = jnp.argmin(task.loss_rows(logits, batch), axis=0)
    return jnp.take_along_axis(logits, best[None, :, None], axis=0)[0]


def linear_weights(logits: jax.Array, batch, task=CLASSIFICATION) -> jax.Array:
    """[n, B, K] -> [n]: weights on the simplex that (nearly) minimise the labelled rows' mean label loss."""
    whole = jnp.sum(task.known(batch, logits.dtype))

    def loss(weights):
        rows = task.loss_rows(jnp.einsum("n,nbk->bk", weights, logits), batch)
        return jnp.sum(rows) / jnp.where(whole > 0, whole, 1.0)

    def step(number, logs):
        gradient = jax.grad(loss)(jax.nn.softmax(logs))
        slope = gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), 1e-12)  # scale-free: logits grow in training
        return jax.nn.log_softmax(logs - slope / jnp.sqrt(1.0 + number.astype(logs.dtype)))

    start = jnp.zeros(logits.shape[0], logits.dtype)
    return jax.nn.softmax(jax.lax.fori_loop(0, STEPS, step, start))


def minlogit(logits: jax.Array, batch) -> jax.Array:
    """[n, B, K] -> [B, K]: the lowest of the peers' logits, minus the logit of the (first known) label."""
    label = batch.label if batch.second_label is None else jnp.where(batch.label < 0, batch.second_label, batch.label)
    label = jnp.maximum(label, 0)
    index = jnp.broadcast_to(label[:, None], (*logits.shape[:-1], 1))
    return jnp.min(logits - jnp.take_along_axis(logits, index, axis=-1), axis=0)


def ensemble(kind: str, logits: jax.Array, batch, task=CLASSIFICATION) -> jax.Array:
    """Combines the peers' logits.

    Args:
        kind: one of `ENSEMBLES`.
        logits: [n, B, K].
        batch: as in the step.
        task: what the batch's labels mean.

    Returns:
        The teacher's logits [B, K].
    """
    mean = jnp.mean(logits, axis=0)
    if kind == "linear":
        return jnp.einsum("n,nbk->bk", linear_weights(logits, batch, task), logits)
    chosen = naive(logits, batch, task) if kind == "naive" else minlogit(logits, batch)
    return jnp.where(task.known(batch)[:, None] > 0, chosen, mean)


@dataclasses.dataclass(frozen=True)
class KDCL(Group):
    """Peers learn from labels and from an ensemble of their logits, each on a view of its own.

    Paper: Guo, Wang, Wu, Yu, Liang, Hu, Luo, CVPR 2020

    Attributes:
        ensemble: "naive", "linear" or "minlogit".
        weight: weight of the distillation loss.
        temperature: T, dimensionless.
        own_views: each peer sees its own random view of each image.
    """

    ensemble: str = one_of(*ENSEMBLES)
    weight: float = not_negative(1.0)
    temperature: float = positive(2.0)
    own_views: bool = True
    reads = ("teacher_arch",)

    @property
    def views(self):
        return ("weak",) * (len(self._players) if self.own_views else 1)

    def losses(self, params, state, batch, key):
        images = (batch.image, *batch.views) if self.own_views else (batch.image,) * len(self._players)
        answers, extra = {}, {}
        for view, ((name, player), image) in enumerate(zip(self._players.items(), images, strict=True)):
            rngs = player.rngs(batch, view)
            outputs, stats = player.forward(state.variables(name, params), image, train=True, rngs=rngs)
            answers[name], extra[name] = outputs, {"batch_stats": stats}
        logits = jax.lax.stop_gradient(jnp.stack([own.logits for own in answers.values()]))
        target = ensemble(self.ensemble, logits, batch, self.task)
        terms, counts = self._label_terms(answers, batch)
        for name, own in answers.items():
            terms[term_of(name, "KDCL")] = self.weight * kl_divergence(own.logits, target, self.temperature)
        return terms, (extra, counts)
