"""What strategies share: players, the state, the label loss and the update."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from data import Batch
from models import Outputs, forward

STUDENT, METHOD, MEMORY = 0, 1, 2  # what the key of `init` is folded with: equal seeds start equal students


@dataclasses.dataclass(frozen=True)
class Player:
    """A network in a role, with the input statistics that it was or will be trained on.

    Attributes:
        name: "student", "teacher", ...
        model: a linen Module.
        mean, std: per channel, of pixels in [0, 1].
    """

    name: str
    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def init(self, key: jax.Array, image: jax.Array) -> dict:
        """Fresh variables `{"params", "batch_stats"}` for images like `image` [B, H, W, C]."""
        variables = self.model.init(key, image[:1])
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def forward(self, variables: dict, image: jax.Array, **options) -> tuple[Outputs, dict]:
        """`models.forward` on `image` [B, H, W, C] in [0, 1], normalised with this player's own statistics."""
        mean, std = jnp.asarray(self.mean, image.dtype), jnp.asarray(self.std, image.dtype)
        return forward(self.model, variables, (image - mean) / std, **options)


@struct.dataclass
class State:
    """Everything a strategy carries from step to step; a pytree.

    Attributes:
        step: int32 scalar, updates done.
        params: player name (or "method") -> what the optimizer moves.
        extra: player name (or "method") -> its other variables: batch statistics, memory.
        opt_state: the optimizer's.
        frozen: player name -> variables that never change. Not part of a checkpoint.
    """

    step: jax.Array
    params: dict
    extra: dict
    opt_state: Any
    frozen: dict


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Base of the strategies: `init(key, batch) -> State` and `step(state, batch, key) -> (State, metrics)`, both pure.

    Attributes:
        student: the network that the user asked for.
        optimizer: an optax transformation.
    """

    student: Player
    optimizer: optax.GradientTransformation
    needs_teacher: ClassVar[bool] = False
    freezes_teacher: ClassVar[bool] = False  # its batch norms may be folded

    def student_variables(self, state: State) -> dict:
        """The student's `{"params", "batch_stats"}`."""
        return {"params": state.params["student"], **state.extra["student"]}

    def init(self, key: jax.Array, batch: Batch) -> State:
        raise NotImplementedError(f"{type(self).__name__} defines init(key, batch).")

    def loss(self, params: dict, state: State, batch: Batch, key: jax.Array):
        """-> (scalar, (new extra, metrics)); what `step` differentiates with respect to `params`."""
        raise NotImplementedError(f"{type(self).__name__} defines loss(params, state, batch, key).")

    def step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, dict]:
        """One update.

        Returns:
            The next state, and metrics: name -> float32 scalar. `loss` is the sum of the other loss terms;
            `correct` and `labelled` are shares of the batch, their quotient is the training accuracy.
        """
        gradients, (extra, metrics) = jax.grad(self.loss, has_aux=True)(state.params, state, batch, key)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, extra=extra, opt_state=opt_state), metrics

    def _state(self, params: dict, extra: dict, frozen: dict) -> State:
        step = jnp.zeros((), jnp.int32)
        return State(step=step, params=params, extra=extra, opt_state=self.optimizer.init(params), frozen=frozen)


def label_loss(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, dict]:
    """Cross-entropy with the labels.

    Args:
        logits: [B, K] float32.
        label: [B] int32; -1 is no label.

    Returns:
        (scalar: mean over the labelled rows, 0 where there are none, natural log;
        {"correct": share of the batch that is labelled and right, "labelled": share that is labelled}).
    """
    labelled = (label >= 0).astype(logits.dtype)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
    loss = jnp.sum(nll * labelled) / jnp.maximum(jnp.sum(labelled), 1.0)
    correct = (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
    return loss, {"correct": jnp.mean(correct), "labelled": jnp.mean(labelled)}
