"""From a resolved config to the parts of a run: dataset, players, strategy, update, schedule, seeds.

Besides `training.run_folder` and `training.train` nothing reads the config after the builder.
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
import pretrained
import tasks
import transfer
from configs.command import names_in
from configs.environment import command_line
from configs.resolve import plain, teacher_command
from distiller import dot
from pretrained.players import check_fits, player_of
from registry import UserError
from tasks.classification import balanced_weights
from training import bank, optimizer
from training.devices import here
from training.replica import Replica, Shared
from training.run_folder import warn
from training.schedule import Schedule
from training.teachers import Teachers
from training.update import Update

CALL = 50  # updates in one call on a GPU or TPU, at most
# What a network or method of the user's own can raise when it does not fit.
MISFITS = (ValueError, TypeError, KeyError, AttributeError, FlaxError)


class Builder:
    """Makes the parts of a run; implements `transfer.base.Builder`, which strategies cast their players with.

    Args:
        config: complete (`configs.resolve`).
        say: takes a line for the user.

    Attributes:
        dataset: described; the images are read when first looked at.
        strategy: with its players.
        teachers: (weights, player, variables) of each trained network that a strategy asks and does not train.
        digests: SHA-256 of the weights of all networks that start trained.
        others: name of a learner beside the student -> its part of `model.json`.
    """

    def __init__(self, config: FrozenConfigDict, say: Callable[[str], None] = print):
        self.config, self.say = config, say
        self.devices = here()
        if config.deterministic:
            self.devices.check_repeatable()
        self.dataset = data.load(**{key: config[key] for key in data.KEYS}, name=config.dataset)
        for line in self.dataset.report:
            say(line)
        weights = {"label_smoothing": config.label_smoothing}
        if config.class_weights == "balanced":
            weights["class_weights"] = balanced_weights(self.dataset.train.labels, self.dataset.num_classes)
        self.task = tasks.create(config.task, **weights)
        self.teachers: list = []
        self.digests: list[str] = []
        self.others: dict[str, dict] = {}
        chosen = {key: config[key] for key in data.AUGMENTATION_KEYS}
        chosen["erase_with"] = self.dataset.mean if config.random_erasing else ()
        self.augmentation = data.Augmentation(
            pad=config.crop_pad, mode=config.crop_mode, flip=config.flip == "yes", strong=config.strong_view, **chosen
        )
        self.devices.check_divides(config.batch_size, config.accumulate)
        self.steps_per_epoch = len(self.dataset.train) // config.batch_size  # without the last incomplete batch
        self.strategy = self._cast()

    # What a strategy casts its players with.

    @property
    def has_weights(self) -> bool:
        return bool(self.config.teacher_param)

    def trained(self, name: str, frozen: bool = True) -> list[tuple[transfer.Player, dict]]:
        config, found = self.config, []
        dtype = jnp.dtype(config.teacher_dtype or config.dtype)
        archs = names_in(config.teacher_arch) or [""]
        advice = f"\nTo train one: {teacher_command(config)}"
        if not self.has_weights:
            raise UserError(f"--transfer {config.transfer} needs --teacher_param, a trained teacher.{advice}")
        for param, arch in zip(names_in(config.teacher_param), archs, strict=True):
            weights = pretrained.load(param)
            check_fits(weights, self.dataset, "teacher", advice)
            self.digests.append(weights.sha256)
            player, variables = player_of(weights, name, dtype, arch, frozen, self.dataset.class_names)
            found.append((player, variables))
            if frozen:
                self.teachers.append((weights, player, variables))
            else:
                self.others[name] = {key: weights.info.get(key, {}) for key in ("arch", "options")}
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
        return transfer.Player(name, network, self.dataset.mean, self.dataset.std)

    # The parts.

    def _cast(self) -> transfer.Strategy:
        """The strategy with its players; whatever does not fit is found by tracing, before anything compiles."""
        config, kind = self.config, transfer.kind(self.config.transfer, self.config.accumulate, self.config.ema_weights)
        parts = {"student": self._player("student", config.student_arch, plain(config.student_options))}
        parts |= {"task": self.task, "split_gradients": config.optimizer == "dot"}
        parts["optimizer"] = optimizer.create(config, self.steps_per_epoch)
        if config.distiller:
            parts["method"] = distiller.create(config.distiller, **plain(config.distiller_options))
        if "train_epoch" in {field.name for field in dataclasses.fields(kind)}:
            parts["train_epoch"] = config.train_epoch
        strategy = kind(**parts, **kind.players(self), **plain(config.transfer_options))
        if config.optimizer == "dot":
            strategy = self._with_dot(strategy)
        self._check_fit(strategy)
        return strategy

    def shared(self, folder: pathlib.Path) -> Shared:
        """What the seeds have in common; reads the images."""
        config, strategy, devices, dataset = self.config, self.strategy, self.devices, self.dataset
        stack = devices.loops if config.stack_seeds == "auto" else config.stack_seeds == "yes"
        most = (CALL if devices.loops else 1) if config.steps_per_call == "auto" else int(config.steps_per_call)
        programs = {"skip": config.on_nan == "skip", "stacked": stack and config.seeds > 1, "many": most > 1}
        epochs, steps = strategy.epochs(config.train_epoch), self.steps_per_epoch
        images, test_images = devices.place((dataset.train.images, dataset.test.images))
        info = {"arch": config.student_arch, "options": plain(config.student_options), **dataset.info}
        info |= {"transfer": config.transfer, "distiller": config.distiller, "command": command_line()}
        return Shared(
            folder=folder,
            dataset=dataset,
            images=images,
            test_images=test_images,
            strategy=strategy,
            schedule=Schedule(steps, epochs, config.log_every, config.eval_every, config.keep_epochs, most),
            update=Update(strategy, self.augmentation, devices, **programs),
            teachers=Teachers(self.teachers, dataset, test_images, devices, self.task, self.say),
            batch_size=config.batch_size,
            train_epoch=config.train_epoch,
            teacher_views=config.teacher_views,
            balanced=config.sampling == "balanced",
            learning_rate=optimizer.learning_rate(config, self.steps_per_epoch),
            info=info,
            others=self.others,
        )

    def replicas(self, shared: Shared) -> list[Replica]:
        """One replica a seed, in its first state."""
        config, found = self.config, []
        for seed in range(config.seed, config.seed + config.seeds):
            folder = shared.folder / f"s{seed}" if config.seeds > 1 else shared.folder
            if hosts.first():
                folder.mkdir(exist_ok=True)
            pool, labels = self._pool(seed)
            its_bank = None
            if config.teacher_views:
                settings = bank.Settings(
                    config.teacher_views, config.teacher_bank_dtype, config.teacher_bank_top_k, seed
                )
                its_bank = bank.prepare(folder, settings, shared, self.teachers[0], self.say, warn)
            found.append(Replica(shared, seed, folder, pool, labels, its_bank))
        return found

    def _pool(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(examples to draw from, labels with the withheld ones as -1).

        With `num_labels` a strategy that learns from labels alone draws from the labelled images only.
        """
        labels = self.dataset.train.labels
        everything = np.arange(len(labels), dtype=np.int32)
        if not self.config.num_labels:
            return everything, labels
        labelled = data.balanced_subset(labels, self.config.num_labels, seed)
        counts = np.bincount(labels[labelled], minlength=self.dataset.num_classes)
        if counts.min() < counts.max() and seed == self.config.seed:
            shown = ", ".join(map(str, counts[:12])) + ", ..." * (len(counts) > 12)
            warn(f"--num_labels {len(labelled)}: the classes have unequal numbers of labels: {shown}.")
        withheld = np.full_like(labels, -1)
        withheld[labelled] = labels[labelled]
        return (everything if self.strategy.uses_unlabelled else labelled), withheld

    # Checks.

    def _abstract(self, strategy: transfer.Strategy, banked: bool = False):
        """(state, batch, key) of a step as shapes; `banked`: the batch brings the teacher's logits.

        They are laid out as in the run, so that the run does not trace the strategy's functions again.
        """
        shape, count = jax.ShapeDtypeStruct, len(self.dataset.train)
        images, labels = shape((count, *self.dataset.image_shape), jnp.uint8), shape((count,), jnp.int32)
        order, number = shape((1 + self.steps_per_epoch, self.config.batch_size), jnp.int32), shape((), jnp.int32)
        classes = data.ClassTable(*[labels] * 4) if "partner" in strategy.views else None
        split = self.devices.shapes(data.DeviceSplit(images, labels, number, order, order, classes))
        batch = jax.eval_shape(Update(strategy, self.augmentation, self.devices).batch, split, number)
        if banked:
            logits = shape((self.config.batch_size, self.dataset.num_classes), jnp.float32)
            batch = batch.replace(teacher_logits=logits)
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch, key = self.devices.shapes((batch, key))
        return self.devices.shapes(jax.eval_shape(strategy.traced_init, key, batch)), batch, key

    def _check_fit(self, strategy: transfer.Strategy) -> None:
        """Traces a step; raises `UserError` where networks, method and views do not fit, or a bank cannot serve."""
        config = self.config
        reason = bank.reason_against(strategy, self.augmentation, config.distiller) if config.teacher_views else ""
        if config.teacher_views and not reason:
            try:
                return self._trace(strategy, banked=True)
            except MISFITS as error:
                reason = f"{config.distiller} needs more of the teacher than its logits ({str(error).rstrip('.')})"
        with self._misfits_explained():  # a step that fails without a bank, too, is not the bank's fault
            self._trace(strategy)
        if reason:
            raise UserError(
                f"--teacher_views {config.teacher_views}: {reason}.\n"
                "Leave --teacher_views out: then the teacher is asked in every step."
            )

    def _trace(self, strategy: transfer.Strategy, banked: bool = False) -> None:
        state, *rest = self._abstract(strategy, banked)
        if unknown := state.frozen.keys() - strategy.frozen.keys():
            raise ValueError(f"{type(strategy).__name__}.init freezes what its `frozen` lacks: {', '.join(unknown)}")
        jax.eval_shape(strategy.traced_step, state, *rest)

    def _with_dot(self, strategy: transfer.Strategy) -> transfer.Strategy:
        """The strategy with an optimizer that knows which parameters both losses reach."""
        with self._misfits_explained():
            state, batch, _ = self._abstract(strategy)
            both = dot.reached_by_both(strategy, state, batch, self.config.distiller or self.config.transfer)
        return dataclasses.replace(strategy, optimizer=optimizer.create(self.config, self.steps_per_epoch, both))

    @contextlib.contextmanager
    def _misfits_explained(self):
        """Says that the networks and the method do not fit."""
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError, FlaxError) as error:
            config = self.config
            raise UserError(
                f"{config.distiller or config.transfer} cannot train {config.student_arch}: {error}"
            ) from None
