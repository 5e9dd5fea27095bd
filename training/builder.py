"""Makes the parts of a run from a resolved config: dataset, players, strategy, update, schedule, seeds.

After the builder only `training.run_folder` and `training.train` read the config.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import FrozenConfigDict

import data
import distiller
import hosts
import models
import tasks
import transfer
from configs.command import names_in
from configs.environment import command_line
from configs.resolve import dataset_of, plain, student_options, teacher_command
from distiller import dot
from pretrained import foreign, given
from pretrained.players import fitted, player_of
from pretrained.start import Start
from registry import UserError
from tasks.classification import balanced_weights
from training import bank
from training.devices import Devices, here
from training.replica import Replica, Shared
from training.run_folder import warn
from training.schedule import Schedule
from training.teachers import Teachers
from training.update import Update
from transfer import optimizer
from transfer.reading import reads_classes
from transfer.untrained import without_labels

CALL = 50  # the largest number of updates in one call on a GPU or TPU
# Errors that a user's own network or method may raise when it does not fit.
MISFITS = (ValueError, TypeError, KeyError, AttributeError, FlaxError)


class Builder:
    """Makes the parts of a run. Implements `transfer.base.Builder`, from which strategies get their players.

    Args:
        config: the complete config (`configs.resolve`).
        say: takes a line for the user.
        devices: the devices of the run; None: all that JAX sees.

    Attributes:
        dataset: the dataset; its images are read at the first use.
        strategy: the strategy with its players.
        teachers: (weights, player, variables) of each trained network that is not trained further.
        given: (logits, player, variables) of the teacher whose logits are given (`teacher_logits`); or empty.
        digests: SHA-256 of the weights of each network that starts trained.
        others: name of a learner beside the student -> its part of `model.json`.
    """

    def __init__(self, config: FrozenConfigDict, say: Callable[[str], None] = print, devices: Devices | None = None):
        self.config, self.say, self.devices = config, say, devices or here()
        if config.deterministic:
            self.devices.check_repeatable()
        self.dataset = dataset_of(config)
        for line in self.dataset.report:
            say(line)
        weights = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
        if config.class_weights == "balanced":
            weights["class_weights"] = balanced_weights(self.dataset.train.labels, self.dataset.num_classes)
        self.task = tasks.of(self.dataset, **weights, **plain(config.task_options))
        self.teachers: list = []
        self.given: list = []
        self.strangers: list[str] = []  # of each teacher with other classes, what is wrong
        self.digests: list[str] = []
        rate = config.head_learning_rate / config.learning_rate if config.head_learning_rate else 1.0
        self.start = Start(names_in(config.init_param), names_in(config.freeze), rate, self.dataset)
        self.others: dict[str, dict] = {}
        self.least, self.augmentation = data.divided(self.dataset, data.Augmentation.of(config, self.dataset.mean))
        self.devices.check_divides(config.batch_size, config.accumulate)
        self.steps_per_epoch = len(self.dataset.train) // config.batch_size  # without the last incomplete batch
        self.strategy = self._cast()

    # The interface for strategies.

    @property
    def has_weights(self) -> bool:
        return bool(self.config.teacher_param)

    def trained(self, name: str, frozen: bool = True) -> list[tuple[transfer.Player, dict]]:
        config, found = self.config, []
        if config.teacher_logits:
            logits = given.load(config.teacher_logits, self.dataset, config.teacher_views)
            self.digests.append(logits.sha256)
            self.given.append((logits, *logits.player(name, self.dataset)))
            return [self.given[0][1:]]
        dtype = jnp.dtype(config.teacher_dtype or config.dtype)
        archs = names_in(config.teacher_arch) or [""]
        advice = f"\nTo train one: {teacher_command(config)}"
        if not self.has_weights:
            raise UserError(f"--transfer {config.transfer} needs --teacher_param, a trained teacher.{advice}")
        for param, arch in zip(names_in(config.teacher_param), archs, strict=True):
            weights = foreign.load(param, arch, self.dataset, config.teacher_taps, config.teacher_input)
            size, others = config.teacher_image_size, self.strangers if frozen else None
            weights = fitted(weights, self.dataset, "teacher", warn, advice, size, others)
            self.digests.append(weights.sha256)
            player, variables = player_of(weights, name, dtype, arch, frozen, self.dataset, size)
            found.append((player, variables))
            if frozen:
                self.teachers.append((weights, player, variables))
            else:
                own = {"image_shape": list(player.view.shape(self.dataset.image_shape))}
                self.others[name] = {key: weights.info.get(key, {}) for key in ("arch", "options")} | own
        return found

    def untrained(self, name: str) -> tuple[transfer.Player, ...]:
        found = []
        for number, arch in enumerate(names_in(self.config.teacher_arch), start=1):
            options = plain(self.config.student_options) if arch == self.config.student_arch else {}
            self.others[name.format(number)] = {"arch": arch, "options": options}
            found.append(self._player(name.format(number), arch, options))
        return tuple(found)

    def _player(self, name: str, arch: str, options: dict) -> transfer.Player:
        network = models.create(arch, self.dataset.num_classes, dtype=jnp.dtype(self.config.dtype), **options)
        player = transfer.Player(name, network, self.dataset.mean, self.dataset.std, **self.dataset.view())
        return self.start.begin(player)

    @property
    def identity(self) -> dict:
        """What makes the run this one: the config, and the fingerprints of data and weights."""
        digests = {"teacher_sha256": self.digests, "init_sha256": self.start.digests}
        found = {name: ",".join(own) or None for name, own in digests.items()}
        cropped = " cropped on the host" if self.least else ""
        return {**plain(self.config), "data": f"{self.dataset.fingerprint}{cropped}", **found}

    @property
    def report(self) -> dict[str, list[str]]:
        """What was read of the data and what the networks start from, for `env.json`."""
        return {"data": list(self.dataset.report)} | ({"start": self.start.lines} if self.start.lines else {})

    # The parts.

    def _cast(self) -> transfer.Strategy:
        """Returns the strategy with its players. A trace finds parts that do not fit, before anything compiles."""
        config, groups = self.config, self.devices.groups(self.config.batch_norm_chips)
        kind = transfer.kind(config.transfer, config.accumulate, config.ema_weights, groups)
        parts = {"student": self._player("student", config.student_arch, student_options(config))}
        parts |= {"task": self.task, "optimizer": optimizer.create(config, self.steps_per_epoch)}
        if config.distiller:
            parts["method"] = distiller.create(config.distiller, **plain(config.distiller_options))
        if "train_epoch" in {field.name for field in dataclasses.fields(kind)}:
            parts["train_epoch"] = config.train_epoch
        parts |= {**kind.players(self), "split_gradients": config.optimizer == "dot"}
        if config.init_head == "teacher":
            parts["student"] = self.start.with_head(parts["student"], self.teachers)
        strategy = kind(**parts, **plain(config.transfer_options))
        if self.strangers and (config.teacher_views or reads_classes(strategy, lambda: self._abstract(strategy))):
            raise UserError(self.strangers[0])
        if config.optimizer == "dot" or self.start.holds:
            strategy = self._with_optimizer(strategy)
        for line in self.start.lines:
            self.say(line)
        self._check_fit(strategy)
        strategy = strategy.prepared(self._abstract)
        return strategy if self.dataset.labelled else without_labels(strategy, *self._abstract(strategy)[:2], self.say)

    def shared(self, folder: pathlib.Path) -> Shared:
        """Returns what the seeds have in common. Reads the images."""
        config, devices, dataset = self.config, self.devices, self.dataset
        strategy = self.strategy.prepared(self._abstract, dataset.train)
        epochs, steps = strategy.epochs(config.train_epoch), self.steps_per_epoch
        images, see, stream = data.feeds(dataset, devices, strategy.views, self.least, config.loading_threads)
        exams = tuple(data.Exam(name, see(own), own.labels) for name, own in dataset.exams.items())
        info = {"arch": config.student_arch, "options": student_options(config), **dataset.info}
        info |= {"mean": list(strategy.student.mean), "std": list(strategy.student.std)}
        info |= {"transfer": config.transfer, "distiller": config.distiller, "command": command_line()}
        return Shared(
            folder=folder,
            dataset=dataset,
            images=images,
            stream=stream,
            least=self.least,
            exams=exams,
            strategy=strategy,
            schedule=Schedule(steps, epochs, config.log_every, config.eval_every, config.keep_epochs, self.most),
            update=self.update(strategy),
            teachers=Teachers(self.teachers, dataset, exams[-1], devices, self.task, self.say),
            batch_size=config.batch_size,
            train_epoch=config.train_epoch,
            teacher_views=config.teacher_views,
            balanced=config.sampling == "balanced",
            learning_rate=optimizer.learning_rate(config, self.steps_per_epoch),
            info=info | strategy.task.info,
            others=self.others,
        )

    @property
    def most(self) -> int:
        """The largest number of updates in one call. Streamed images come one update at a time."""
        own, loops = self.config.steps_per_call, self.devices.loops and not self.dataset.streamed
        return (CALL if loops else 1) if own == "auto" else int(own)

    def update(self, strategy: transfer.Strategy) -> Update:
        """Returns the compiled functions of the run."""
        config, auto = self.config, self.config.stack_seeds == "auto"
        stacked = config.seeds > 1 and (self.devices.loops if auto else config.stack_seeds == "yes")
        programs = {"skip": config.on_nan == "skip", "stacked": stacked, "many": self.most > 1}
        return Update(strategy, self.augmentation, self.devices, **programs)

    def replicas(self, shared: Shared) -> list[Replica]:
        """Returns one replica per seed, in its first state."""
        config, found = self.config, []
        for seed in range(config.seed, config.seed + config.seeds):
            folder = shared.folder / f"s{seed}" if config.seeds > 1 else shared.folder
            if hosts.first():
                folder.mkdir(exist_ok=True)
            pool, labels = self._pool(seed)
            its_bank = None
            if config.teacher_views or self.given:
                settings = bank.Settings(
                    config.teacher_views, config.teacher_bank_dtype, config.teacher_bank_top_k, seed
                )
                its_bank = bank.prepare(folder, settings, shared, (self.given or self.teachers)[0], self.say, warn)
            found.append(Replica(shared, seed, folder, pool, labels, its_bank))
        return found

    def _pool(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (indices of the examples to draw from, labels with -1 where withheld).

        With `num_labels` a strategy that learns from labels alone draws only labelled images.
        """
        labels, count = self.dataset.train.labels, self.config.num_labels
        if not count:
            return np.arange(len(labels), dtype=np.int32), labels
        withheld, labelled, note = data.withheld(labels, count, seed, self.dataset.num_classes)
        if note and seed == self.config.seed:
            warn(f"--num_labels {count}: {note}")
        return (np.arange(len(labels), dtype=np.int32) if self.strategy.uses_unlabelled else labelled), withheld

    def split(self, strategy: transfer.Strategy) -> data.DeviceSplit:
        """Returns the training split as shapes, laid out as in the run."""
        shapes = data.DeviceSplit.shapes(self.dataset, self.steps_per_epoch, self.config.batch_size, strategy.views)
        return self.devices.shapes(shapes)

    # Checks.

    def _abstract(self, strategy: transfer.Strategy, banked: bool = False):
        """Returns (state, batch, key) of a step as shapes; with `banked` the batch has the teacher's logits.

        The shapes have the run's layout on the devices, so the run does not trace the strategy's functions again.
        """
        split = self.split(strategy)
        batch = jax.eval_shape(self.update(strategy).batch, split, split.seed)
        if banked:
            logits = jax.ShapeDtypeStruct((self.config.batch_size, self.dataset.num_classes), jnp.float32)
            batch = batch.replace(teacher_logits=logits)
        batch, key = self.devices.shapes((batch, jax.eval_shape(lambda: jax.random.key(0))))
        return self.devices.shapes(jax.eval_shape(strategy.traced_init, key, batch)), batch, key

    def _check_fit(self, strategy: transfer.Strategy) -> None:
        """Traces a step; raises `UserError` if networks, method and views do not fit, or if they forbid a bank."""
        config, banked = self.config, self.given or self.config.teacher_views
        flag = f"--teacher_logits {config.teacher_logits}" if self.given else f"--teacher_views {config.teacher_views}"
        reason = bank.reason_against(strategy, self.augmentation, config.distiller) if banked else ""
        if banked and not reason:
            try:
                return self._trace(strategy, banked=True)
            except MISFITS as error:
                reason = f"{config.distiller} needs more of the teacher than its logits ({str(error).rstrip('.')})"
        if not self.given:
            with self._misfits_explained():  # first the errors that have nothing to do with a bank
                self._trace(strategy)
        if reason:
            fix = "Give the teacher's weights, --teacher_param" if self.given else "Leave --teacher_views out"
            raise UserError(f"{flag}: {reason}.\n{fix}: then every step runs the teacher.")

    def _trace(self, strategy: transfer.Strategy, banked: bool = False) -> None:
        state, *rest = self._abstract(strategy, banked)
        if unknown := state.frozen.keys() - strategy.frozen.keys():
            raise ValueError(f"{type(strategy).__name__}.init freezes more than its `frozen` has: {', '.join(unknown)}")
        jax.eval_shape(strategy.traced_step, state, *rest)

    def _with_optimizer(self, strategy: transfer.Strategy) -> transfer.Strategy:
        """The strategy with an optimizer that knows the parameters: DOT, frozen parts, rates of classifiers."""
        config, own = self.config, strategy.optimizer
        with self._misfits_explained():
            state, batch, _ = self._abstract(strategy)
            if config.optimizer == "dot":
                both = dot.reached_by_both(strategy, state, batch, config.distiller or config.transfer)
                own = optimizer.create(config, self.steps_per_epoch, both)
            if self.start.holds:
                own = self.start.held(own, strategy, state)
        return dataclasses.replace(strategy, optimizer=own)

    @contextlib.contextmanager
    def _misfits_explained(self):
        """Turns an error of a trace into a `UserError`: the networks and the method do not fit."""
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError, FlaxError) as error:
            config = self.config
            raise UserError(
                f"{config.distiller or config.transfer} cannot train {config.student_arch}: {error}"
            ) from None
