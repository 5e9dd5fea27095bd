"""What strategies share: players, the state, the label loss and the update."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from data import Batch
from models import Outputs, forward, ops

# Fields of strategies that the engine fills in; all others are the user's options.
PLAYERS = ("student", "optimizer", "method", "split_gradients", "teacher", "teacher_variables", "peers")
PLAYERS += ("train_epoch",)  # of strategies whose losses or length depend on it
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

    def look(self, variables: dict, batch: Batch, views: int = 1, **options) -> tuple[Outputs, dict]:
        """`forward` on the first `views` views of a batch, one pass each.

        Returns:
            (`Outputs` of the usual view, with the others' in `views`; the batch statistics after all passes).
        """
        outputs = []
        for image in (batch.image, *batch.views)[:views]:
            answer, stats = self.forward(variables, image, **options)
            variables = {**variables, "batch_stats": stats}
            outputs.append(answer)
        return outputs[0].replace(views=tuple(outputs[1:])), stats


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
class Strategy(abc.ABC):
    """Base of the strategies: `init(key, batch) -> State` and `step(state, batch, key) -> (State, metrics)`, both pure.

    A subclass defines `init` and `losses`, and `frozen` where its state has any; its further dataclass fields with
    defaults are the options of `--config.transfer_options` (those that hold players or variables stand in `PLAYERS`).

    Attributes:
        student: the network that the user asked for.
        optimizer: an optax transformation.
        method: a distiller; None for a strategy that needs none.
        split_gradients: the optimizer wants the gradient of the label losses by itself too (`training.dot`).
        teachers: which networks beside the student it takes: "" (none), "trained" (frozen, with weights) or "peers"
            (they learn too).
        peer_name: what the peers are called; `{}` is their number, from 1.
        needs_method: whether it takes a distiller; the others have a loss of their own.
        default_method: the distiller and its options where the user names none.
        baseline: stands in tables beside the others: what a command line says of teacher and distiller is ignored.
        freezes_teacher: the teacher is only asked, never trained: its batch norms may be folded.
        uses_unlabelled: whether images without a label teach it anything.
    """

    student: Player
    optimizer: optax.GradientTransformation
    _: dataclasses.KW_ONLY
    method: nn.Module | None = None
    split_gradients: bool = False
    teachers: ClassVar[str] = ""
    peer_name: ClassVar[str] = "peer{}"
    needs_method: ClassVar[bool] = False
    default_method: ClassVar[tuple[str, dict]] = ("SoftLogits", {})
    baseline: ClassVar[bool] = False
    freezes_teacher: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = True

    @property
    def views(self) -> tuple[str, ...]:
        """The views of each image that a step sees (`distiller.Distiller.views`); the first is the usual one."""
        return self.method.views if self.method else ("weak",)

    def epochs(self, train_epoch: int) -> int:
        """Epochs in all: those asked for and a method's first phase."""
        return train_epoch + (self.method.first_phase_epochs if self.method else 0)

    def best_after(self, train_epoch: int) -> int:
        """The epoch after which a test can be the student's best; others train somebody else before."""
        return 0

    def student_variables(self, state: State) -> dict:
        """The student's `{"params", "batch_stats"}`."""
        return {"params": state.params["student"], **state.extra["student"]}

    def learners(self, state: State) -> dict[str, tuple[Player, dict]]:
        """Name -> (player, variables) of all that is to be tested and kept; "student" is the first."""
        return {"student": (self.student, self.student_variables(state))}

    def ensembles(self, logits: dict) -> dict:
        """Name -> logits of the combinations to be tested beside the learners, from the learners' [N, K]."""
        return {}

    def tested(self, state: State) -> dict[str, tuple[Player, dict]]:
        """Name -> (player, variables) of what is to be tested beside the learners and is not kept as a network."""
        return {}

    @property
    def frozen(self) -> dict:
        """Name -> variables of all that `init` may put into `State.frozen`, so that no program has to compute them."""
        return {}

    def inspect(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Name -> what a step reads: looked at for the cause when something became non-finite."""
        return {"image": batch.image, **{f"image of view {i + 2}": view for i, view in enumerate(batch.views)}}

    @abc.abstractmethod
    def init(self, key: jax.Array, batch: Batch) -> State:
        """The first state, for batches like `batch`."""

    @abc.abstractmethod
    def losses(self, params: dict, state: State, batch: Batch, key: jax.Array):
        """-> (name -> scalar, (new extra, metrics)); `step` differentiates the sum with respect to `params`.

        The loss on labels is named "cross_entropy". Terms of learners beside the student have their name in front:
        "peer1/cross_entropy".
        """

    def step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, dict]:
        """One update.

        Returns:
            The next state, and metrics: name -> float32 scalar. `loss` is the sum of the other loss terms;
            `correct` and `labelled` are shares of the batch, their quotient is the training accuracy; `gradient_norm`
            is the Euclidean norm over all parameters that learn.
        """
        opt_state, phase = state.opt_state, self.method.first_phase_epochs if self.method else 0
        if phase:  # the training proper starts with a fresh optimizer
            fresh = self.optimizer.init(state.params)
            opt_state = _where(batch.epoch == phase, fresh, opt_state)

        def total(params):
            terms, aux = self.losses(params, state, batch, key)
            return sum(terms.values()), (terms, aux)

        def labels(params):
            terms = self.losses(params, state, batch, key)[0]
            return sum((value for name, value in terms.items() if is_label_loss(name)), jnp.zeros(()))

        (loss, (terms, (extra, metrics))), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        options = {"label_gradients": jax.grad(labels)(state.params)} if self.split_gradients else {}
        updates, opt_state = self.optimizer.update(gradients, opt_state, state.params, **options)
        updates = self._scaled(updates)
        params = optax.apply_updates(state.params, updates)
        if phase:  # who does not learn yet stays as it was, weight decay and batch statistics included
            first = batch.epoch < phase
            still = [name for name in params if name not in self.method.first_phase_learns]
            params = params | {name: _where(first, state.params[name], params[name]) for name in still}
            extra = extra | {name: _where(first, state.extra[name], extra[name]) for name in still}
        metrics = {"loss": loss, **terms, **metrics, "gradient_norm": ops.norm(gradients)}
        return state.replace(step=state.step + 1, params=params, extra=extra, opt_state=opt_state), metrics

    @functools.cached_property
    def traced_init(self):
        """`init`, which JAX traces once, however many programs it becomes a part of."""
        return jax.jit(self.init, inline=True)  # a program that reads some of it computes only that

    @functools.cached_property
    def traced_step(self):
        """`step`, likewise."""
        return jax.jit(self.step)

    def shares(self, state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Loss term -> its share of the gradient: its norm by the student's parameters over the sum of all terms'.

        The terms are the student's own; those of other learners are left out.
        """

        def terms(student):
            found = self.losses({**state.params, "student": student}, state, batch, key)[0]
            return {name: value for name, value in found.items() if "/" not in name}

        values, pullback = jax.vjp(terms, state.params["student"])
        zeros = jax.tree.map(jnp.zeros_like, values)
        norms = {n: ops.norm(pullback({**zeros, n: jnp.ones_like(v)})[0]) for n, v in values.items()}
        whole = jnp.maximum(sum(norms.values()), jnp.finfo(jnp.float32).tiny)
        return {name: norm / whole for name, norm in norms.items()}

    def _scaled(self, updates: dict) -> dict:
        """The optimizer's updates as they shall be made."""
        return updates

    def _state(self, params: dict, extra: dict) -> State:
        step = jnp.zeros((), jnp.int32)
        return State(step=step, params=params, extra=extra, opt_state=self.optimizer.init(params), frozen={})

    def _label_term(self, logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict]:
        """`label_loss` times the method's `ce_weight`; 0 in a method's first phase."""
        entropy, counts = label_loss(logits, batch.label, batch.second_label, batch.share)
        if self.method is None:
            return entropy, counts
        weight = self.method.ce_weight
        if self.method.first_phase_epochs:
            weight = jnp.where(batch.epoch < self.method.first_phase_epochs, 0.0, weight)
        return weight * entropy, counts

    def _look(self, player: Player, variables: dict, batch: Batch, train: bool = True) -> tuple[Outputs, dict]:
        """`player.look` with the views and the gradient taps that the method wants."""
        taps = self.method.gradient_taps
        return player.look(variables, batch, len(self.method.views), train=train, gradient_taps=taps)

    def _method_init(self, key: jax.Array, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Any, dict]:
        """(parameters, other variables) of the method."""
        keys = {"params": jax.random.fold_in(key, METHOD), "method": jax.random.fold_in(key, MEMORY)}
        variables = dict(self.method.init(keys, student, teacher, batch))
        return variables.pop("params", {}), variables

    def _method(self, params, memory: dict, student: Outputs, teacher: Outputs, batch: Batch, key: jax.Array):
        """-> (the method's terms, its other variables afterwards)."""
        (_, terms), memory = self.method.apply(
            {"params": params, **memory}, student, teacher, batch, rngs={"method": key}, mutable=list(memory)
        )
        return terms, dict(memory)


def is_label_loss(name: str) -> bool:
    """Whether a term is the loss on labels: the student's, or with a name in front that of another learner."""
    return name.rpartition("/")[2] == "cross_entropy"


def label_loss(logits: jax.Array, label: jax.Array, second_label=None, share=None) -> tuple[jax.Array, dict]:
    """Cross-entropy with the labels.

    Args:
        logits: [B, K] float32.
        label: [B] int32; -1 is no label.
        second_label: [B] int32, where two images are mixed: the other one's label; then the loss is `share` [B]
            times that of `label` and the rest times that of `second_label`. What is known counts, by its share.

    Returns:
        (scalar: mean over the labelled rows, weighted by the shares that are known, 0 where there are none, natural
        log; {"correct": share of the batch whose `label` is known and right, "labelled": share with that known}).
    """
    labelled = (label >= 0).astype(logits.dtype)
    first, second = label_weights(logits.dtype, label, second_label, share)
    loss, whole = jnp.sum(first * _cross_entropy(logits, label)), jnp.sum(first)
    if second_label is not None:
        loss, whole = loss + jnp.sum(second * _cross_entropy(logits, second_label)), whole + jnp.sum(second)
    correct = labelled * (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
    return loss / jnp.where(whole > 0, whole, 1.0), {"correct": jnp.mean(correct), "labelled": jnp.mean(labelled)}


def label_weights(dtype, label: jax.Array, second_label=None, share=None) -> tuple[jax.Array, jax.Array]:
    """[B] of `dtype` each: how much a row's label and its second one count; 0 where they are withheld (-1)."""
    first = (label >= 0).astype(dtype)
    if second_label is None:
        return first, jnp.zeros_like(first)
    share = share.astype(dtype)
    return share * first, (1 - share) * (second_label >= 0).astype(dtype)


def _cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
