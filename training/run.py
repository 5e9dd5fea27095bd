"""One call for one run: from a recipe to a finished run folder."""

import dataclasses
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
from training import loop, optimizer, run_folder
from training.evaluation import check_fits, frozen_player_of, player_of
from training.metrics import evaluate
from training.replicas import Replica, warn
from training.step import Predictor

TEACHER_TOLERANCE = 1.0  # points of top-1 between a teacher's recorded and measured accuracy


def train(recipe: ConfigDict | dict, quiet: bool = False) -> dict:
    """Trains a student as a recipe says, or continues where an earlier call stopped.

    Args:
        recipe: config keys over the defaults of `configs/default.py`.
        quiet: print nothing but warnings.

    Returns:
        The run's summary, as written to `summary.json`.

    Raises:
        UserError: a mistake in the recipe, data, weights or folder; found before anything compiles or is written.
        training.loop.Interrupted: a signal arrived; everything is saved.
    """
    start = time.monotonic()
    say = (lambda *_: None) if quiet else (lambda text: print(text, flush=True))
    config = configs.merge(recipe)
    configs.check(config)
    rules = transfer.registry.get(config.transfer)
    if not rules.needs_method:
        config.distiller, config.distiller_options = "", ConfigDict()
    if rules.teachers != "trained":
        config.teacher_param = config.teacher_dtype = ""
        config.teacher_views = 0
    if not rules.teachers:
        config.teacher_arch = ""
    if config.teacher_param:
        pretrained.find(config.teacher_param)  # before a dataset is read
    config.train_path = config.train_path or configs.default_train_path(config)
    dataset = data.load(config.dataset, config.data_dir, config.image_size)
    augmentation = _augmentation(config, dataset)
    _check_data(config, dataset)
    strategy, teacher, others = _strategy(
        config, dataset
    )  # nothing has been read of the data so far but its description
    identity = configs.plain(config)
    identity["teacher_sha256"] = teacher.sha256 if teacher else None
    identity["data"] = dataset.fingerprint
    with run_folder.open_run(config.train_path, identity) as folder:
        summary = folder / run_folder.SUMMARY
        if summary.exists():
            say(f"{folder} is finished already.")
            return run_folder.read_json(summary)
        run_folder.write_environment(folder)
        seeds = range(config.seed, config.seed + config.seeds)
        folders = [folder / f"s{seed}" for seed in seeds] if config.seeds > 1 else [folder]
        replicas = [Replica(s, f, *_pool(config, dataset, s)) for s, f in zip(seeds, folders, strict=True)]
        teacher_logits = None
        if teacher:
            teacher_logits = Predictor(strategy.teacher, dataset.test.images)(strategy.teacher_variables)
            _check_teacher(teacher, dataset, teacher_logits, say)
        for replica in replicas if config.teacher_views else []:
            replica.folder.mkdir(exist_ok=True)
            own = config.copy_and_resolve_references()
            own.seed = replica.seed
            replica.bank = banks.prepare(replica.folder, own, dataset, strategy, augmentation, teacher, say, warn)
        return loop.run(
            folder=folder,
            config=config,
            dataset=dataset,
            strategy=strategy,
            augmentation=augmentation,
            replicas=replicas,
            teacher_logits=teacher_logits,
            info=_info(config, dataset),
            others=others,
            start=start,
            quiet=quiet,
        )


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
    """The strategy with its players; the teacher's weights, None without one; the peers' facts for `model.json`.

    Fills in `teacher_arch`.
    """
    dtype = jnp.dtype(config.dtype)
    steps = len(dataset.train) // config.batch_size

    def player(name, arch, options):
        network = models.create(arch, dataset.num_classes, dtype=dtype, **options)
        return transfer.Player(name, network, dataset.mean, dataset.std)

    options = configs.plain(config.student_options)
    parts = {"student": player("student", config.student_arch, options), "optimizer": optimizer.create(config, steps)}
    teacher, others, rules = None, {}, transfer.registry.get(config.transfer)
    if rules.teachers == "trained":
        teacher = _teacher(config, dataset)
        make = frozen_player_of if rules.freezes_teacher else player_of
        its_dtype = jnp.dtype(config.teacher_dtype or config.dtype)
        parts["teacher"], parts["teacher_variables"] = make(teacher, "teacher", its_dtype, config.teacher_arch)
        config.teacher_arch = teacher.info["arch"]
    if rules.teachers == "peers":
        archs = [arch.strip() for arch in config.teacher_arch.split(",") if arch.strip()] or [config.student_arch]
        others = {
            f"peer{i + 1}": {"arch": arch, "options": options if arch == config.student_arch else {}}
            for i, arch in enumerate(archs)
        }
        parts["peers"] = tuple(player(name, facts["arch"], facts["options"]) for name, facts in others.items())
        config.teacher_arch = ",".join(archs)
    if rules.needs_method:
        parts["method"] = distiller.create(config.distiller, **configs.plain(config.distiller_options))
    if "train_epoch" in {field.name for field in dataclasses.fields(rules)}:
        parts["train_epoch"] = config.train_epoch
    parts |= configs.plain(config.transfer_options)
    strategy = transfer.create(config.transfer, **parts)
    image = jnp.zeros((config.batch_size, *dataset.image_shape), jnp.float32)
    label = jnp.zeros((config.batch_size,), jnp.int32)
    mixed = {"second_label": label, "share": jnp.ones(config.batch_size)} if config.mixup or config.cutmix else {}
    further = (image,) * (len(strategy.views) - 1)
    batch = data.Batch(image, label, label, jnp.zeros(()), further, examples=len(dataset.train), **mixed)
    if "previous" in strategy.views:
        batch = batch.replace(previous=batch.replace(views=()))
    try:
        jax.eval_shape(strategy.init, jax.random.key(0), batch)
    except (ValueError, TypeError, FlaxError) as error:  # a network of the user's own can fail in any of these ways
        raise UserError(f"{config.distiller or config.transfer} cannot train {config.student_arch}: {error}") from None
    if config.teacher_views:
        banks.check(config, strategy, batch, dataset.num_classes)
    return strategy, teacher, others


def _teacher(config: ConfigDict, dataset: data.Dataset) -> pretrained.Pretrained:
    arch = config.teacher_arch or "ResNet20"
    command = f"python train_teacher.py --arch {arch} --dataset {config.dataset} --train_path runs/teacher"
    default = configs.defaults()
    if config.teacher_param == default.teacher_param and config.dataset != default.dataset:
        raise UserError(
            f"--teacher_param is missing: {default.teacher_param} was trained on {default.dataset}.\n"
            f"To train a teacher on {config.dataset}: {command}"
        )
    if not config.teacher_param:
        raise UserError(
            f"--transfer {config.transfer} needs --teacher_param, a trained teacher.\nTo train one: {command}"
        )
    teacher = pretrained.load(config.teacher_param)
    info = teacher.info
    if config.teacher_arch and config.teacher_arch != info["arch"]:
        raise UserError(
            f"--teacher_arch is {config.teacher_arch}, but the weights in {teacher.folder} are of {info['arch']}."
        )
    check_fits(teacher, dataset, "teacher", f"\nTo train one: {command}")
    return teacher


def _check_teacher(teacher: pretrained.Pretrained, dataset: data.Dataset, logits: np.ndarray, say) -> None:
    """Warns when the teacher is not as good here as its `model.json` says: a wrong normalisation or class order."""
    measured = evaluate(logits, dataset.test.labels)["top1"]
    recorded = teacher.info["test_top1"]
    say(f"Teacher {teacher.info['arch']} from {teacher.folder}: test top-1 {measured:.2f} %")
    theirs, ours = teacher.info["class_names"], list(dataset.class_names)
    if theirs not in (ours, [str(i) for i in range(len(ours))]):  # numbers: an import that knew no names
        warn(f"the teacher's classes {theirs[:3]} ... are not the data's {ours[:3]} ...")
    if recorded is not None and abs(measured - recorded) > TEACHER_TOLERANCE:
        warn(
            f"the teacher's recorded test top-1 is {recorded:.2f} % ({teacher.info['dataset']}), here it has "
            f"{measured:.2f} %. Check normalisation, class order and image size."
        )


def _info(config: ConfigDict, dataset: data.Dataset) -> dict:
    """What `model.json` says of the student, but for its accuracy."""
    return {
        "arch": config.student_arch,
        "options": configs.plain(config.student_options),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "dataset": dataset.name,
        "image_shape": list(dataset.image_shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "transfer": config.transfer,
        "distiller": config.distiller,
        "command": run_folder.command_line(),
    }
