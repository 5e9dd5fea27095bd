"""USKD: soft labels made from the student's own logits, for the target and for the other classes.

    loss = L - alpha * mean_b P_b log s_bt - beta * mean_b sum_{i != t} Z_bi log n_bi + mu * weak
    P = s_t^2 + 1 - mean_b s_t^2,   n = softmax of the other classes' logits,   weak = smoothed label loss of w
    Z_i proportional to 1 / rank_i, the rank of s_i / (1 - s_t) + w_i / (1 - w_t) among the other classes

L is the task's loss on labels, t the label, s the student's probabilities, and w those of the weak head, a linear
layer on the last stage but one. P and Z are constants.

Paper: Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
with Normalized Loss and Customized Soft Labels. ICCV 2023. arXiv:2303.13005.

The weights are those of the CIFAR-100 recipe; ImageNet's are 1, 0.1 and 0.005. With `as_released` the ranks are those
of the released code: by log s_i / (1 - log s_t), and with the target among them. The label is in every term, so rows
without a label teach nothing. The strategy needs 3 classes or more.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import wide
from distiller.normalised import Linear
from distiller.spatial import as_map
from distiller.target import labelled_mean, refuse_two_classes, split_target
from models import stages
from options import not_negative
from transfer.alone import Alone

SMOOTHING = 0.1  # of the weak head's labels


class WeakHead(nn.Module):
    """A linear classifier on the mean over positions of the last stage but one: `Outputs` -> [B, K] float32."""

    @nn.compact
    def __call__(self, outputs):
        found = stages(outputs.features)
        if not found:
            raise ValueError(f"USKD needs taps stage1 ...; there are {sorted(outputs.features) or 'logits only'}.")
        x = jnp.mean(wide(as_map(found[max(len(found) - 2, 0)])), axis=(1, 2))
        return Linear(outputs.logits.shape[1], name="classifier")(x)


def target_label(probability: jax.Array, label: jax.Array) -> jax.Array:
    """s^2 + 1 - mean s^2 for the target's probability s [B], the mean over labelled rows: [B]."""
    square = jnp.square(probability)
    return square + 1 - labelled_mean(square, label)


def zipf(rank: jax.Array) -> jax.Array:
    """Ranks [B, C] from 1 -> weights proportional to 1 / rank; rows sum to 1."""
    weights = 1.0 / rank.astype(jnp.float32)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def ranks(scores: jax.Array) -> jax.Array:
    """Scores [B, C] -> [B, C] int32: 1 for the highest of a row; of equal scores the first has the lower rank."""
    return 1 + jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class USKD(Alone):
    """The student makes soft labels for itself: the target's from its confidence, the others' from their order.

    Paper: Yang, Zeng, Li, Zhang, Yuan, Li, ICCV 2023, arXiv:2303.13005

    Attributes:
        alpha: weight of the target's term.
        beta: weight of the other classes' term.
        mu: weight of the weak head's label loss.
        as_released: rank like the released code.
    """

    alpha: float = not_negative(0.1)
    beta: float = not_negative(0.1)
    mu: float = not_negative(0.1)
    as_released: bool = False
    uses_unlabelled = False

    def heads(self):
        return WeakHead()

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        labels, counts = self._label_terms({"student": student}, batch)
        logits, label, fixed = wide(student.logits), batch.label, jax.lax.stop_gradient
        refuse_two_classes("USKD", logits, instead="--transfer PSKD or EMA, which teach from all classes")
        weak = self._heads(params, student)
        target, _ = split_target(jax.nn.log_softmax(logits), label)
        target = target[:, 0]
        others = jax.nn.log_softmax(split_target(logits, label)[1])
        rows_target = -fixed(target_label(jnp.exp(target), label)) * target
        rows_others = -jnp.sum(fixed(self._order(logits, weak, label)) * others, axis=1)
        said = jax.nn.log_softmax(weak)
        rows_weak = -(1 - SMOOTHING) * split_target(said, label)[0][:, 0] - SMOOTHING * jnp.mean(said, axis=1)
        terms = {
            **labels,
            "USKD_target": self.alpha * labelled_mean(rows_target, label),
            "USKD_others": self.beta * labelled_mean(rows_others, label),
            "USKD_weak": self.mu * labelled_mean(rows_weak, label),
        }
        return terms, (extra, counts)

    def _order(self, logits: jax.Array, weak: jax.Array, label: jax.Array) -> jax.Array:
        """Z [B, K - 1] of the other classes, in the order of `split_target`."""
        own = jax.nn.log_softmax(logits) if self.as_released else jax.nn.softmax(logits)
        parts = [split_target(x, label) for x in (own, jax.nn.softmax(weak))]
        scores = sum(others / (1 - target + 1e-6) for target, others in parts)
        if not self.as_released:
            return zipf(ranks(scores))
        at_target = sum(target / (1 - target + 1e-6) for target, _ in parts)
        return zipf(ranks(jnp.concatenate([at_target, scores], axis=1))[:, 1:])
