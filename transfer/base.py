"""What strategies share: the learners, the state, the label terms and the update."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from data import Batch
from models import Outputs, Player, ops
from tasks.classification import Classification

# Fields of strategies that the engine (`training`) fills in; all others are the user's options.
PLAYERS = ("student", "optimizer", "method", "task", "split_gradients", "teacher", "teacher_variables", "peers")
PLAYERS += ("train_epoch",)
# The key of `init` is folded with these numbers; the student's first weights are the same under every strategy.
STUDENT, METHOD, MEMORY = 0, 1, 2
PEERS = 16  # for a learner beside the student: folded with PEERS, then with the learner's number
TEACHER_KEYS = ("teacher_arch", "teacher_param", "teacher_dtype", "teacher_image_size")
BANK_KEYS = ("teacher_views", "teacher_bank_dtype", "teacher_bank_top_k", "teacher_logits")


class Builder(Protocol):
    """The interface through which a strategy gets its players; the engine implements it for a recipe."""

    has_weights: bool
    """Whether the recipe names weights for networks beside the student."""

    def trained(self, name: str, frozen: bool = True) -> list[tuple[Player, dict]]:
        """Returns (player, variables) of each network whose weights the recipe names.

        Args:
            name: the player's role.
            frozen: the network answers and does not learn; tests compare the student with the network.
        """

    def untrained(self, name: str) -> tuple[Player, ...]:
        """Returns the networks beside the student whose architectures the recipe names, with no weights yet.

        Args:
            name: the players' role; `{}` in the name stands for the player's number, from 1.
        """


@struct.dataclass
class State:
    """Everything a strategy carries from step to step; a pytree.

    Attributes:
        step: int32 scalar, updates done.
        params: name of a player (or "method") -> the parameters that the optimizer moves.
        extra: name of a player (or "method") -> the other variables: batch statistics, memory.
        opt_state: the optimizer's state.
        frozen: name of a player -> variables that never change. A checkpoint does not hold them.
    """

    step: jax.Array
    params: dict
    extra: dict
    opt_state: Any
    frozen: dict

    def variables(self, name: str, params: dict | None = None) -> dict:
        """Returns `{"params", "batch_stats"}` of the player `name`; the parameters are from `params` if given."""
        return {"params": (params or self.params)[name], **self.extra[name]}


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """Base of the strategies: `init(key, batch) -> State` and `step(state, batch, key) -> (State, metrics)`, both pure.

    A subclass defines `losses`; `init` if the state holds more than the learners' variables; `players` and `_players`
    if other networks take part; `frozen` if the state has frozen variables. Its dataclass fields with defaults are the
    options of `--config.transfer_options`, with their limits (`options`). The engine fills in the fields in `PLAYERS`.

    Attributes:
        student: the network that the user asked for.
        optimizer: an optax transformation.
        method: a distiller; None for a strategy that takes none.
        task: what labels mean (`tasks`).
        split_gradients: the optimizer also takes the gradient of the label losses alone (`distiller.dot`).
        reads: keys of the recipe that matter to this strategy and not to all: "distiller", `TEACHER_KEYS`, ...
        default_method: the distiller and its options if the user names none.
        baseline: tables show this strategy beside the others. So the command line of another strategy is allowed, and a
            distiller or teacher on that command line is ignored with a note.
        uses_unlabelled: whether images without a label teach the student anything.
    """

    student: Player
    optimizer: optax.GradientTransformation
    _: dataclasses.KW_ONLY
    method: nn.Module | None = None
    task: Any = Classification()  # noqa: RUF009  # immutable
    split_gradients: bool = False
    reads: ClassVar[tuple[str, ...]] = ()
    default_method: ClassVar[tuple[str, dict]] = ("SoftLogits", {})
    baseline: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = True

    @classmethod
    def players(cls, build: Builder) -> dict:
        """Asks `build` for the networks beside the student; returns name of a field of the strategy -> its value."""
        return {}

    def prepared(self, abstract: Callable, split: Any = None) -> "Strategy":
        """The strategy after what it asks of a step's shapes (`abstract(strategy)`), then of the training images."""
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """The views of each image that a step takes (`distiller.Distiller.views`); the first is the usual one."""
        return self.method.views if self.method else ("weak",)

    def epochs(self, train_epoch: int) -> int:
        """Returns the epochs of the whole run: the recipe's, and those of the method's first phase."""
        return train_epoch + self._first_phase

    def best_after(self, train_epoch: int) -> int:
        """Returns the epoch after which a test can be the student's best; earlier epochs train another network."""
        return 0

    def student_variables(self, state: State) -> dict:
        """Returns the student's `{"params", "batch_stats"}`."""
        return state.variables("student")

    def learners(self, state: State) -> dict[str, tuple[Player, dict]]:
        """Returns name -> (player, variables) of the networks that are tested and kept; "student" is the first."""
        return {name: (player, state.variables(name)) for name, player in self._players.items()}

    def ensembles(self, logits: dict) -> dict:
        """Returns name -> logits [N, K] of each combination of learners that is tested, too.

        Args:
            logits: name of a learner -> its logits [N, K].
        """
        return {}

    def tested(self, state: State) -> dict[str, tuple[Player, dict]]:
        """Returns name -> (player, variables) of networks that are tested beside the learners and not kept."""
        return {}

    @property
    def frozen(self) -> dict:
        """Name -> all variables that `init` may put into `State.frozen`; no program has to compute these."""
        return {}

    def inspect(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Returns name -> an input of the step. The engine searches them for the cause of a non-finite number."""
        return {"image": batch.image, **{f"image of view {i + 2}": view for i, view in enumerate(batch.views)}}

    def init(self, key: jax.Array, batch: Batch) -> State:
        """Returns the first state, for batches like `batch`."""
        return self._state(*self._first_variables(key, batch.image))

    @abc.abstractmethod
    def losses(self, params: dict, state: State, batch: Batch, key: jax.Array):
        """Computes the terms of the loss; `step` differentiates their sum with respect to `params`.

        Returns:
            (name -> scalar, (new extra, metrics)). The loss on labels comes from `_label_terms`. Terms of learners
            beside the student have the learner's name in front: "peer1/SoftLogits".
        """

    def step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, dict]:
        """One update.

        Returns:
            The next state, and metrics: name -> float32 scalar. `loss` is the sum of the other loss terms;
            `correct` and `labelled` are shares of the batch, their quotient is the training accuracy; `gradient_norm`
            is the Euclidean norm over all parameters that learn.
        """
        opt_state, phase = state.opt_state, self._first_phase
        if phase:  # a fresh optimizer starts after the first phase
            opt_state = where(batch.epoch == phase, self.optimizer.init(state.params), opt_state)
        gradients, options, metrics, extra = self._gradients(state, batch, key)
        updates, opt_state = self.optimizer.update(gradients, opt_state, state.params, **options)
        params = optax.apply_updates(state.params, self._scaled(updates))
        if phase:  # a player that does not learn yet stays as it was, weight decay and batch statistics included
            first = batch.epoch < phase
            still = [name for name in params if name not in self.method.first_phase_learns]
            params = params | {name: where(first, state.params[name], params[name]) for name in still}
            extra = extra | {name: where(first, state.extra[name], extra[name]) for name in still}
        metrics = {**metrics, "gradient_norm": ops.norm(gradients)}
        return state.replace(step=state.step + 1, params=params, extra=extra, opt_state=opt_state), metrics

    def _gradients(self, state: State, batch: Batch, key: jax.Array) -> tuple[dict, dict, dict, dict]:
        """Returns (gradients of the loss, what else the optimizer takes, the loss and other metrics, the new extra)."""

        def total(params, wanted=None):
            terms, aux = self.losses(params, state, batch, key)
            return sum((terms[name] for name in filter(wanted, terms)), jnp.zeros(())), (terms, aux)

        (loss, (terms, (extra, metrics))), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        split, derive = self.split_gradients, jax.grad(total, has_aux=True)
        options = {"label_gradients": derive(state.params, self.is_label_term)[0]} if split else {}
        return gradients, options, {"loss": loss, **terms, **metrics}, extra

    @functools.cached_property
    def traced_init(self):
        """`init`, which JAX traces once for all programs that contain it."""
        return jax.jit(self.init, inline=True)  # a program that reads a part of the state computes only that

    @functools.cached_property
    def traced_step(self):
        """`step`, which JAX traces once for all programs that contain it."""
        return jax.jit(self.step)

    def shares(self, state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Computes how much each loss term moves the student.

        Returns:
            Name of each term of the student -> the norm of its gradient with respect to the student's parameters,
            divided by the sum of these norms over all terms.
        """

        def terms(student):
            found = self.losses({**state.params, "student": student}, state, batch, key)[0]
            return {name: value for name, value in found.items() if "/" not in name}

        values, pullback = jax.vjp(terms, state.params["student"])
        zeros = jax.tree.map(jnp.zeros_like, values)
        norms = {n: ops.norm(pullback({**zeros, n: jnp.ones_like(v)})[0]) for n, v in values.items()}
        whole = jnp.maximum(sum(norms.values()), jnp.finfo(jnp.float32).tiny)
        return {name: norm / whole for name, norm in norms.items()}

    def is_label_term(self, name: str) -> bool:
        """Whether the term `name` is the label loss of any learner."""
        return name.rpartition("/")[2] == self.task.term

    @property
    def _first_phase(self) -> int:
        return self.method.first_phase_epochs if self.method else 0

    @property
    def _players(self) -> dict[str, Player]:
        """Name -> network that the optimizer moves; the student is the first."""
        return {"student": self.student}

    def _scaled(self, updates: dict) -> dict:
        """Returns the optimizer's `updates`, scaled by the strategy; here without a change."""
        return updates

    def _first_variables(self, key: jax.Array, image: jax.Array) -> tuple[dict, dict]:
        """Returns (name -> parameters, name -> {"batch_stats"}) of all `_players`, each drawn from its own key."""
        params, extra = {}, {}
        for number, (name, player) in enumerate(self._players.items()):
            variables = player.init(player_key(key, number), image)
            params[name], extra[name] = variables["params"], {"batch_stats": variables["batch_stats"]}
        return params, extra

    def _state(self, params: dict, extra: dict, frozen: dict | None = None) -> State:
        step, opt_state = jnp.zeros((), jnp.int32), self.optimizer.init(params)
        return State(step=step, params=params, extra=extra, opt_state=opt_state, frozen=frozen or {})

    def _label_terms(self, outputs: dict[str, Outputs], batch: Batch, weight=1.0) -> tuple[dict, dict]:
        """Computes the task's loss for each learner, times `weight`.

        Args:
            outputs: name of a learner -> its outputs.
            batch: has the labels.

        Returns:
            (name of a term, as `losses` returns it -> scalar; the first learner's counts). Both empty without labels.
        """
        terms, counts = {}, {}
        for name, own in outputs.items() if self.task.term else ():
            own = self.method.label_outputs(own) if self.method else own
            loss, its_counts = self.task.loss(own, batch)
            terms[term_of(name, self.task.term)] = weight * loss
            counts = counts or its_counts
        return terms, counts

    def _label_weight(self, batch: Batch):
        """Returns the method's weight of the label loss; 0 in the method's first phase, 1 without a method."""
        if self.method is None:
            return 1.0
        if not self._first_phase:
            return self.method.ce_weight
        return jnp.where(batch.epoch < self._first_phase, 0.0, self.method.ce_weight)

    def _look(self, name: str, params: dict, extra: dict, batch: Batch) -> tuple[Outputs, dict]:
        """Runs a learner in train mode on all views.

        Args:
            name: a name in `_players`.
            params, extra: those of all players, as in `State`.

        Returns:
            (`Outputs` with the method's gradient taps, {"batch_stats"} after the passes).
        """
        outputs, stats = self._run(self._players[name], {"params": params[name], **extra[name]}, batch, True)
        return outputs, {"batch_stats": stats}

    def _taught(self, player: Player, variables: dict, batch: Batch, train: bool = False) -> Outputs:
        """Runs a teacher on all views; no gradient flows through the `Outputs` that this returns."""
        return jax.lax.stop_gradient(self._run(player, variables, batch, train)[0])

    def _run(self, player: Player, variables: dict, batch: Batch, train: bool) -> tuple[Outputs, dict]:
        taps = self.method.gradient_taps if self.method else ()
        return player.look(variables, batch, len(self.views), train=train, gradient_taps=taps)

    def _method_init(self, key: jax.Array, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Any, dict]:
        """Returns (parameters, other variables) of the method."""
        keys = {"params": jax.random.fold_in(key, METHOD), "method": jax.random.fold_in(key, MEMORY)}
        variables = dict(self.method.init(keys, *self.task.aligned(student, teacher, batch)))
        return variables.pop("params", {}), variables

    def _method(self, params, memory: dict, student: Outputs, teacher: Outputs, batch: Batch, key: jax.Array):
        """Returns (the method's terms, its other variables after the call)."""
        seen = self.task.aligned(student, teacher, batch)
        (_, terms), memory = self.method.apply(
            {"params": params, **memory}, *seen, rngs={"method": key}, mutable=list(memory)
        )
        return terms, dict(memory)


def player_key(key: jax.Array, number: int) -> jax.Array:
    """Returns the key for the first weights of learner `number`; 0 is the student."""
    return jax.random.fold_in(jax.random.fold_in(key, PEERS), number) if number else jax.random.fold_in(key, STUDENT)


def term_of(learner: str, name: str) -> str:
    """Returns the name of a learner's term: the student's own is `name`, "peer1"'s is "peer1/name"."""
    return name if learner == "student" else f"{learner}/{name}"


def where(condition: jax.Array, a, b):
    """Returns the tree `a` if `condition` holds, else the tree `b`."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
