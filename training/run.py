"""One call for one run: from a recipe to a finished run folder."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

import data
import distiller
import models
import pretrained
import transfer
from registry import UserError
from training import bank as banks
from training import config as configs
from training import hosts, lock, loop, optimizer, run_folder
from training.dot import reached
from training.evaluation import frozen_player_of, player_of
from training.replicas import Replica
from training.run_folder import warn
from training.step import shapes
from training.teachers import TeacherAnswers, names_in, teachers_of
from transfer.base import is_label_loss

REPEATABLE = "xla_gpu_deterministic_ops"


def train(recipe: ConfigDict | dict, quiet: bool = False) -> dict:
    """Trains a student as a recipe says, or continues where an earlier call stopped.

    Args:
        recipe: config keys over the defaults of `configs/default.py`.
        quiet: print nothing but warnings.

    Returns:
        The run's summary, as written to `summary.json`.

    Raises:
        UserError: a mistake in the recipe, data, weights or folder; found before anything compiles or is written.
        training.signals.Interrupted: a signal arrived; everything is saved.
    """
    start = time.monotonic()
    quiet = quiet or not hosts.first()
    say = (lambda *_: None) if quiet else (lambda text: print(text, flush=True))
    with hosts.agreed():
        config = _resolve(recipe)
        folder = pathlib.Path(config.train_path).expanduser()
        finished = folder / run_folder.SUMMARY
        if hosts.first():
            lock.refuse_second(config.train_path)  # before anything slow
        dataset = data.load(config.dataset, config.data_dir, config.image_size)
        augmentation = _augmentation(config, dataset)
        _check_data(config, dataset)
        # so far nothing has been read of the data but their description; a finished run needs no more
        if not finished.exists():
            for split in (dataset.train, dataset.test):
                split.begin()
        strategy, teachers, others = _strategy(config, dataset)
        identity = configs.plain(config)
        identity["teacher_sha256"] = ",".join(teacher.sha256 for teacher in teachers) or None
        identity["data"] = dataset.fingerprint
    own = ("train_path", "data_dir", "teacher_param")
    hosts.check_same("config, data and teacher", {key: identity[key] for key in identity if key not in own})
    with contextlib.ExitStack() as stack:
        summary = None
        with hosts.agreed():
            if hosts.first():
                stack.enter_context(run_folder.open_run(config.train_path, identity))
                summary = run_folder.read_json(finished) if finished.exists() else None
                if not summary:
                    run_folder.write_environment(folder)
        summary = hosts.share(summary)
        if summary:
            say(f"{folder} is finished already.")
            return summary
        with hosts.agreed():
            _ = dataset.train.images, dataset.test.images  # a process that cannot read them ends all
        seeds = range(config.seed, config.seed + config.seeds)
        folders = [folder / f"s{seed}" for seed in seeds] if config.seeds > 1 else [folder]
        replicas = [Replica(s, f, *_pool(config, dataset, s)) for s, f in zip(seeds, folders, strict=True)]
        answers = None
        if transfer.registry.get(config.transfer).teachers == "trained":
            parts = (strategy.teacher, strategy.teacher_variables)
            parts = zip(*parts, strict=True) if isinstance(strategy.teacher, tuple) else [parts]
            answers = TeacherAnswers(teachers, list(parts), dataset, say)
            if config.teacher_views or not answers.samples:  # minutes are to be spent on a bank, or it takes no time
                answers.check()
        for replica in replicas if config.teacher_views else []:
            if not hosts.several():
                replica.folder.mkdir(exist_ok=True)
            own = config.copy_and_resolve_references()
            own.seed = replica.seed
            replica.bank = banks.prepare(replica.folder, own, dataset, strategy, augmentation, teachers[0], say, warn)
        return loop.run(
            folder=folder,
            config=config,
            dataset=dataset,
            strategy=strategy,
            augmentation=augmentation,
            replicas=replicas,
            teacher_answers=answers,
            info=_info(config, dataset),
            others=others,
            start=start,
            quiet=quiet,
        )


def _resolve(recipe: ConfigDict | dict) -> ConfigDict:
    """The checked config, with what its strategy has no use for emptied, and the run's folder chosen."""
    config = configs.merge(recipe)
    configs.check(config)
    rules = transfer.registry.get(config.transfer)
    if not rules.needs_method:
        config.distiller, config.distiller_options = "", ConfigDict()
    if rules.teachers != "trained":
        config.teacher_views = 0
        if not config.transfer_options.get("trained_teacher"):
            config.teacher_param = config.teacher_dtype = ""
    if not rules.teachers:
        config.teacher_arch = ""
    for param in names_in(config.teacher_param):
        pretrained.find(param)  # before a dataset is read
    config.train_path = config.train_path or lock.default_train_path(config)
    if config.deterministic and jax.default_backend() == "gpu" and REPEATABLE not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            f"'deterministic' must be set before JAX starts, as the command lines do: XLA_FLAGS=--{REPEATABLE}=true."
        )
    return config


def _augmentation(config: ConfigDict, dataset: data.Dataset) -> data.Augmentation:
    """The dataset's own, where the recipe does not say otherwise."""
    own = dataset.augmentation
    pad = own.pad if config.crop_pad < 0 else config.crop_pad
    pad = 0 if config.resized_crop else pad
    if config.crop_mode == "reflect" and pad >= min(dataset.image_shape[:2]):
        raise UserError(f"'crop_pad' {pad} is too large to reflect images of {dataset.image_shape[:2]} pixels.")
    flip = own.flip if config.flip == "auto" else config.flip == "yes"
    same = {key: config[key] for key in ("resized_crop", "randaugment", "magnitude", "mixup", "cutmix")}
    return data.Augmentation(pad=pad, mode=config.crop_mode, flip=flip, strong=config.strong_view, **same)


def _check_data(config: ConfigDict, dataset: data.Dataset) -> None:
    if config.batch_size > len(dataset.train):
        raise UserError(
            f"--batch_size {config.batch_size} is larger than {dataset.name}'s {len(dataset.train)} training images."
        )
    if config.batch_size % jax.device_count():
        raise UserError(
            f"--batch_size {config.batch_size} does not divide by the {jax.device_count()} devices.\n"
            "Choose a multiple, or fewer devices with --gpu_id."
        )
    if 0 < config.num_labels < dataset.num_classes or config.num_labels > len(dataset.train):
        raise UserError(
            f"--num_labels {config.num_labels} must be 0 (all) or from {dataset.num_classes} (one a class) "
            f"to {len(dataset.train)}."
        )


def _pool(config: ConfigDict, dataset: data.Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(examples to draw from, labels with the withheld ones as -1).

    With `num_labels`, labels alone draw from the labelled images; who also learns from others draws from all of them.
    """
    labels = dataset.train.labels
    everything = np.arange(len(labels), dtype=np.int32)
    if not config.num_labels:
        return everything, labels
    labelled = data.balanced_subset(labels, config.num_labels, seed)
    withheld = np.full_like(labels, -1)
    withheld[labelled] = labels[labelled]
    return (everything if transfer.registry.get(config.transfer).uses_unlabelled else labelled), withheld


def _strategy(config: ConfigDict, dataset: data.Dataset):
    """The strategy with its players; the weights of trained teachers; the peers' facts for `model.json`.

    Fills in `teacher_arch`.
    """
    dtype = jnp.dtype(config.dtype)
    steps = len(dataset.train) // config.batch_size

    def player(name, arch, options):
        network = models.create(arch, dataset.num_classes, dtype=dtype, **options)
        return transfer.Player(name, network, dataset.mean, dataset.std)

    options = configs.plain(config.student_options)
    parts = {"student": player("student", config.student_arch, options), "optimizer": optimizer.create(config, steps)}
    teachers, others, rules = [], {}, transfer.registry.get(config.transfer)
    its_dtype = jnp.dtype(config.teacher_dtype or config.dtype)
    if rules.teachers == "trained":
        teachers, archs = teachers_of(config, dataset)
        make = frozen_player_of if rules.freezes_teacher else player_of
        made = [make(teacher, "teacher", its_dtype, arch) for teacher, arch in zip(teachers, archs, strict=True)]
        parts["teacher"], parts["teacher_variables"] = zip(*made, strict=True) if len(made) > 1 else made[0]
    elif rules.teachers == "peers" and config.teacher_param:  # the one that learns starts from weights
        teachers, archs = teachers_of(config, dataset)
        made = [player_of(teacher, "teacher", its_dtype, arch) for teacher, arch in zip(teachers, archs, strict=True)]
        parts["peers"], variables = zip(*made, strict=True)
        parts["teacher_variables"] = variables[0]
        others = {"teacher": {key: teachers[0].info.get(key, {}) for key in ("arch", "options")}}
    elif rules.teachers == "peers":
        archs, peers = names_in(config.teacher_arch) or [config.student_arch], []
        for number, arch in enumerate(archs, start=1):
            name, its_options = rules.peer_name.format(number), options if arch == config.student_arch else {}
            others[name] = {"arch": arch, "options": its_options}
            peers.append(player(name, arch, its_options))
        parts["peers"] = tuple(peers)
    if rules.teachers:
        config.teacher_arch = ",".join(teacher.info["arch"] for teacher in teachers) or ",".join(archs)
    if rules.needs_method:
        parts["method"] = distiller.create(config.distiller, **configs.plain(config.distiller_options))
    if "train_epoch" in {field.name for field in dataclasses.fields(rules)}:
        parts["train_epoch"] = config.train_epoch
    parts |= configs.plain(config.transfer_options)
    strategy = transfer.create(config.transfer, **parts, split_gradients=config.optimizer == "dot")
    return _traced(config, dataset, strategy, steps), teachers, others


def _traced(config: ConfigDict, dataset: data.Dataset, strategy: transfer.Strategy, steps: int) -> transfer.Strategy:
    """The strategy, with the optimizer that it turns out to need; what does not fit is told before anything compiles.

    Its traces are those of the run's programs.
    """
    image = np.zeros((config.batch_size, *dataset.image_shape), np.float32)
    label, share = np.zeros(config.batch_size, np.int32), np.zeros(config.batch_size, np.float32)
    mixed = {"second_label": label, "share": share} if config.mixup or config.cutmix else {}
    further = (image,) * (len(strategy.views) - 1)
    batch = data.Batch(image, label, label, np.zeros((), np.float32), further, examples=len(dataset.train), **mixed)
    if "previous" in strategy.views:
        batch = batch.replace(previous=batch.replace(views=()))
    key, batch = shapes((jax.random.key(0), batch))
    if config.optimizer == "dot":
        with _misfits_told(config):
            state = shapes(jax.eval_shape(strategy.traced_init, key, batch))
            terms = jax.eval_shape(functools.partial(_terms, strategy), state.params, state, batch)
        strategy = _with_dot(config, strategy, state, batch, steps, terms)

    def check_step():
        with _misfits_told(config):
            state = shapes(jax.eval_shape(strategy.traced_init, key, batch))
            if unknown := state.frozen.keys() - strategy.frozen.keys():
                raise ValueError(
                    f"{type(strategy).__name__}.init freezes what its `frozen` lacks: {', '.join(unknown)}"
                )
            jax.eval_shape(strategy.traced_step, state, batch, key)

    if not config.teacher_views:
        check_step()
        return strategy
    try:
        banks.check(config, strategy, batch, dataset.num_classes)
    except UserError:
        check_step()  # where that fails, too, the bank is not to blame
        raise
    return strategy


@contextlib.contextmanager
def _misfits_told(config: ConfigDict):
    """Says that the networks and the method do not fit; one of the user's own can fail in any of these ways."""
    try:
        yield
    except (ValueError, TypeError, FlaxError) as error:
        raise UserError(f"{config.distiller or config.transfer} cannot train {config.student_arch}: {error}") from None


def _terms(strategy: transfer.Strategy, params: dict, state: transfer.State, batch: data.Batch) -> dict:
    return strategy.losses(params, state, batch, jax.random.key(0))[0]


def _with_dot(config: ConfigDict, strategy: transfer.Strategy, state, batch: data.Batch, steps: int, terms: dict):
    """The strategy with an optimizer that knows which parameters both losses reach.

    Args:
        state, batch, terms: shapes of them; the terms are `_terms`.
    """
    on_labels = set(filter(is_label_loss, terms))
    labels = on_labels and not (strategy.method and strategy.method.ce_weight == 0)
    if not labels or len(terms) == len(on_labels):
        missing = "distillation" if labels else "label"
        raise UserError(
            "Optimizer 'dot' gives the label loss and the distillation loss a momentum each, and "
            f"{config.distiller or config.transfer} has no {missing} loss. Take --config.optimizer=sgd."
        )

    def sides(params, state, batch):
        found = _terms(strategy, params, state, batch)
        return [{name: v for name, v in found.items() if (name in on_labels) == side} for side in (True, False)]

    label, distillation = (reached(lambda *parts, i=i: sides(*parts)[i], state.params, state, batch) for i in range(2))
    both = jax.tree.map(lambda a, b: a and b, label, distillation)
    return dataclasses.replace(strategy, optimizer=optimizer.create(config, steps, both))


def _info(config: ConfigDict, dataset: data.Dataset) -> dict:
    """What `model.json` says of the student, but for its accuracy."""
    return {
        "arch": config.student_arch,
        "options": configs.plain(config.student_options),
        **dataset.info,
        "transfer": config.transfer,
        "distiller": config.distiller,
        "command": run_folder.command_line(),
    }
