"""Makes a config from a recipe: checks keys and values, fills in defaults. Nothing changes a config later."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

import data
import distiller
import models
import options
import pretrained
import tasks
import transfer
from configs import boxes, digits, unlabelled
from configs.command import names_in
from configs.conditions import Facts
from configs.default import KEYS, Keys, get_config
from data import imagenet
from models import quantization
from models.parts import CLASSIFIER
from pretrained import foreign
from registry import UserError

FEW = 8  # a smaller batch has too few examples to compare them well
HOT = 1e5  # from this temperature on, differences of logits are near float32's rounding of probabilities
SHIPPED = {"Digits": "pretrained/resnet20_digits"}  # dataset -> its teacher if the recipe names none
TUNED = {"Digits": digits.tuned}  # dataset -> function: method -> its options, which the recipe's options override


def resolve(recipe: Mapping, typed: tuple[str, ...] = (), devices: int = 0) -> tuple[FrozenConfigDict, list[str]]:
    """Makes the complete config of a run. Imports no network, compiles nothing; reads teachers' weights and no images.

    Args:
        recipe: keys over the defaults.
        typed: the keys of `recipe` that the user typed. A typed key without effect raises. Another key without effect
            gives a note.
        devices: the number of devices of the run; 0: all that JAX sees.

    Returns:
        (the config, which cannot be written to; one note for each key of the recipe that has no effect).

    Raises:
        UserError: what is wrong and the fix.
    """
    config = merge(recipe)
    _add_start(config, recipe)
    strategy = transfer.registry.get(config["transfer"])
    transfer.check(config["transfer"], config["transfer_options"])
    method = None
    if config["distiller"]:  # an unknown method raises even if it has no effect
        method = distiller.create(config["distiller"], **config["distiller_options"])
    facts = _facts(strategy, method, config, devices)
    notes = _drop_what_has_no_effect(config, recipe, () if strategy.baseline else typed, facts)
    learners = [config["student_arch"], *names_in("" if "teacher_views" in strategy.reads else config["teacher_arch"])]
    if frozen := next(filter(models.is_torch, learners), ""):
        raise UserError(
            f"{frozen} is a network of PyTorch, which teaches and does not learn.\n"
            "It can be the --teacher_arch of --transfer Offline, with --teacher_param FILE or hub."
        )
    for kind, names in ((data, config["dataset"]), (models, config["student_arch"])):
        kind.registry.check(names)
    for arch in names_in(config["teacher_arch"]):
        models.registry.check(arch)
    _check_together(config)
    dataset = facts.dataset()
    if not dataset.labelled:
        notes += unlabelled.settle(config, strategy, method, typed)
    _add_task(config, dataset)
    if config["task"] == "detection":
        boxes.check(config, plain(get_config()), method if "distiller" in strategy.reads else None)
    _add_dataset(config, dataset)
    _check_head(config, method)
    notes += _check_batch(config, method if "distiller" in strategy.reads else None, facts.views)
    notes += [
        f"{path} {value:g} leaves little of the logits beside float32's rounding: the loss is nearly constant."
        for path, value in _temperatures(config)
        if value >= HOT
    ]
    command = teacher_command(config)
    params, archs = names_in(config["teacher_param"]), names_in(config["teacher_arch"])
    archs += [""] * (len(params) - len(archs))
    found = [foreign.arch_of(param, arch, command) for param, arch in zip(params, archs, strict=False)]
    _check_teachers(config, found)
    config["teacher_arch"] = config["teacher_arch"] or ",".join(found)
    if "teacher_arch" in strategy.reads and "teacher_views" not in strategy.reads and not config["teacher_arch"]:
        config["teacher_arch"] = config["student_arch"]  # networks that start untrained
    config["train_path"] = config["train_path"] or default_train_path(config)
    return FrozenConfigDict(config), notes


def merge(recipe: Mapping) -> dict:
    """Returns the defaults with a recipe's keys over them. The strategy and the dataset fill in some empty keys."""
    recipe = plain(recipe)
    options.check("config key", Keys, recipe)
    config = plain(get_config())
    for name, value in recipe.items():
        if isinstance(config[name], dict) and not isinstance(value, dict):
            raise UserError(f"Config key '{name}' must be a dict; got {value!r}.")
        config[name] = float(value) if isinstance(config[name], float) else value
    strategy = transfer.registry.get(config["transfer"])
    if "distiller" in strategy.reads:
        if not config["distiller"]:
            config["distiller"], own = strategy.default_method
            config["distiller_options"] = {**own, **config["distiller_options"]}
        elif config["dataset"] in TUNED:
            own = TUNED[config["dataset"]](config["distiller"])
            config["distiller_options"] = {**own, **config["distiller_options"]}
    if "teacher_views" in strategy.reads and not (config["teacher_param"] or config["teacher_logits"]):
        config["teacher_param"] = SHIPPED.get(config["dataset"], "")
    return config


def default_train_path(config: Mapping) -> str:
    """Returns runs/<dataset>-<student>-<transfer>-<distiller>-s<seed>: the same command finds its run again."""
    how, seed, seeds = config["transfer"], config["seed"], config["seeds"]
    how += f"-{config['distiller']}" if config["distiller"] else ""
    span = f"s{seed}" if seeds == 1 else f"s{seed}-{seed + seeds - 1}"
    name = f"{config['dataset']}-{config['student_arch']}-{how}-{span}".lower()
    return "runs/" + "".join(c if c.isascii() and (c.isalnum() or c in "+-") else "_" for c in name)


def student_options(config: Mapping) -> dict:
    """The options of the student's network, with how it is quantised."""
    bits = {"quantize": config["student_quantize"]} if config["student_quantize"] != "none" else {}
    return {**plain(config["student_options"]), **bits}


def plain(value: Any) -> Any:
    """Returns the value with ConfigDicts as dicts and lists as tuples."""
    if isinstance(value, (Mapping, ConfigDict)):
        return {name: plain(inside) for name, inside in value.items()}
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


def differences(old: dict, new: dict) -> list[str]:
    """Returns one line for each key that differs between two configs and changes a run's numbers.

    A key that a config of an older version lacks has its default there.
    """
    old, new = (json.loads(json.dumps({**plain(get_config()), **config})) for config in (old, new))
    free = {name for name, key in KEYS.items() if key.metadata["free"]}
    names = [name for name in {**old, **new} if name not in free and old.get(name) != new.get(name)]
    if "train_epoch" in names and grows(old, new):
        names.remove("train_epoch")
    return [f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in names]


def grows(old: dict, new: dict) -> bool:
    """Whether `new` only trains for longer, with a constant rate and losses that do not depend on the length."""
    old, new = ({**plain(get_config()), **config} for config in (old, new))
    fields = {field.name for field in dataclasses.fields(transfer.registry.get(new["transfer"]))}
    constant = new["schedule"] == "constant" and "train_epoch" not in fields
    return constant and old["train_epoch"] < new["train_epoch"]


def advice(old: dict, new: dict) -> str:
    """Returns the fix for a user whose run of `old` cannot continue with `new` (`differences`)."""
    if old["data"] != new["data"] and len(differences(old, new)) == 1:
        return "The images changed, or --loading did: change it back, or use another --train_path."
    if old["train_epoch"] == new["train_epoch"] or grows(old, new):
        return "Use the same config to resume that run, or another --train_path."
    if new["schedule"] != "constant":
        reason = f"A {new['schedule']} schedule depends on 'train_epoch'"
    elif old["train_epoch"] > new["train_epoch"]:
        reason = "A run cannot become shorter"
    else:
        reason = f"The losses of --transfer {new['transfer']} depend on 'train_epoch'"
    return f"{reason}: use another --train_path. Only a run with --schedule constant can be made longer."


def _facts(strategy: type, method: distiller.Distiller | None, config: dict, devices: int) -> Facts:
    """Returns the facts for conditions on keys. `dataset` reads `config` only when it is called."""
    reads_method = method is not None and "distiller" in strategy.reads
    views = strategy.views if isinstance(strategy.views, tuple) else ()  # a property needs the players
    return Facts(
        reads=strategy.reads,
        views=(*views, *(method.views if reads_method else ())),
        first_phase=method.first_phase_epochs if reads_method else 0,
        dataset=lambda: dataset_of(config),
        devices=lambda: devices or jax.device_count(),
    )


def dataset_of(config: Mapping) -> data.Dataset:
    """The dataset that a config names; one without labels has the classes of the first teacher."""
    dataset = _load(config)
    if dataset.labelled or not config["teacher_param"]:
        return dataset
    first, arch = (next(iter(names_in(config[key])), "") for key in ("teacher_param", "teacher_arch"))
    foreign.arch_of(first, arch, teacher_command(config))  # says how to train a teacher where there is none
    guess = dataset.named(imagenet.classes())  # a network of PyTorch is built with some number of classes first
    return dataset.named(foreign.load(first, arch, guess, **foreign.options_of(config)).info["class_names"])


def _load(config: Mapping) -> data.Dataset:
    return data.load(**{key: config[key] for key in data.KEYS}, name=config["dataset"])


def _drop_what_has_no_effect(config: dict, recipe: Mapping, typed: tuple[str, ...], facts: Facts) -> list[str]:
    """Resets keys without effect. Returns a note for each one in the recipe; raises `UserError` for a typed one."""
    notes, defaults = [], plain(get_config())
    for name, key in KEYS.items():
        if config[name] == defaults[name] and name not in typed:
            continue
        reason = next(filter(None, (why_not(config, facts) for why_not in key.metadata["needs"])), "")
        if not reason:
            continue
        if name in typed:
            raise UserError(f"--{_shown(name, recipe[name])} has no effect: {reason}. Leave it out.")
        if name in recipe and plain(recipe[name]) != defaults[name]:
            notes.append(f"{_shown(name, recipe[name])} has no effect: {reason}.")
        config[name] = defaults[name]
    method, chosen = config["distiller"], config["distiller_options"]
    for path, reason in (distiller.ignored(method, chosen) if method else {}).items():
        if "distiller_options" in typed:
            raise UserError(f"--config.distiller_options.{path} has no effect: {reason}. Leave it out.")
        notes.append(f"distiller_options.{path} has no effect: {reason}.")
    return notes


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, (Mapping, ConfigDict)):
        return f"{name} {value}"
    return f"config.{name}.{next(iter(value))}" if value else name


def _check_together(config: dict) -> None:
    """Raises `UserError` for values that do not go together."""
    marks = config["milestones"]
    if list(marks) != sorted(marks):
        raise UserError(f"'milestones' must be rising shares of the training between 0 and 1; got {marks}.")
    if config["seed"] + config["seeds"] > 2**31:
        raise UserError(
            f"'seed' and the 'seeds' after it must be below 2**31; got {config['seed']}, {config['seeds']}."
        )
    if config["optimizer"] == "dot" and config["clip_norm"]:
        raise UserError(
            f"'clip_norm' {config['clip_norm']} clips the sum of two gradients, but optimizer 'dot' needs both of them "
            "separately. Set 'clip_norm' to 0."
        )
    if config["ramp_epochs"] > config["train_epoch"]:
        raise UserError(f"'ramp_epochs' {config['ramp_epochs']} is more than 'train_epoch' {config['train_epoch']}.")


def _add_start(config: dict, recipe: Mapping) -> None:
    """Fills in what weights to start from say of the student and the recipe does not: architecture, options, bits."""
    for param in names_in(config["init_param"])[:1]:  # the student's
        info = pretrained.describe(param)
        if ":" in info["arch"] and "student_arch" not in recipe:  # weights shall not choose what is imported
            raise UserError(
                f"The weights in {param} are of '{info['arch']}', code outside this library.\n"
                f"If you trust it, say so: --student_arch {info['arch']}"
            )
        config["student_arch"] = recipe.get("student_arch", info["arch"])
        if config["student_arch"] == info["arch"] and "student_options" not in recipe:
            config["student_options"] = plain(info.get("options", {}))
    quantize = config["student_options"].pop("quantize", None)  # has a key of its own, which overrides it
    if quantize and "student_quantize" not in recipe:
        kind, dtype = quantization.rule_of(quantize).name, config["dtype"]
        config["student_quantize"] = kind
        if dtype != "float32":
            raise UserError(
                f"The student starts from quantised weights ({kind}), which --dtype {dtype} cannot hold.\n"
                "Leave --dtype out, or make the student float: --student_quantize none"
            )


def _add_task(config: dict, dataset: data.Dataset) -> None:
    """Fills in the dataset's task; raises `UserError` for another task, or for options that the task does not have."""
    if config["task"] not in ("auto", dataset.task):
        tasks.registry.check(config["task"])
        raise UserError(f"--task {config['task']}: the labels of {dataset.name} are for {dataset.task}.")
    config["task"] = dataset.task
    options.check(
        f"option of the task {dataset.task}", tasks.registry.get(dataset.task), config["task_options"], tasks.ENGINE
    )


def _add_dataset(config: dict, dataset: data.Dataset) -> None:
    """Fills in the dataset's defaults; raises `UserError` for values that the dataset does not allow."""
    own, count, classes = dataset.augmentation, len(dataset.train), dataset.num_classes
    if not count:
        raise UserError(f"{dataset.name} has no training images here: evaluate.py measures networks on it.")
    config["crop_pad"] = own.pad if config["crop_pad"] < 0 else config["crop_pad"]
    config["crop_pad"] = 0 if config["resized_crop"] else config["crop_pad"]
    config["flip"] = ("yes" if own.flip else "no") if config["flip"] == "auto" else config["flip"]
    if config["crop_mode"] == "reflect" and config["crop_pad"] >= min(dataset.image_shape[:2]):
        raise UserError(
            f"'crop_pad' {config['crop_pad']} is too large to reflect images of {dataset.image_shape[:2]} pixels."
        )
    if config["batch_size"] > count:
        raise UserError(f"--batch_size {config['batch_size']} is larger than {dataset.name}'s {count} training images.")
    if config["teacher_bank_top_k"] >= classes:
        raise UserError(
            f"'teacher_bank_top_k' {config['teacher_bank_top_k']} must be below the {classes} classes; "
            "0 keeps them all."
        )
    if 0 < config["num_labels"] < classes or config["num_labels"] > count:
        raise UserError(
            f"--num_labels {config['num_labels']} must be 0 (all) or from {classes} (one a class) to {count}."
        )


def _check_batch(config: dict, method: distiller.Distiller | None, views: tuple[str, ...]) -> list[str]:
    """Checks that batches, or the parts that `accumulate` makes of them, have enough examples.

    Returns:
        A note if the method compares examples and has few to compare.

    Raises:
        UserError: the batch does not divide into its parts, or a part is too small to compare examples.
    """
    parts, least = config["accumulate"], method.least_batch if method else 1
    size, given = config["batch_size"] // parts, f"--batch_size {config['batch_size']}"
    given += f" in {parts} parts ('accumulate')" if parts > 1 else ""
    if config["batch_size"] % parts:
        raise UserError(f"{given} has parts of unequal size.\nChoose a --batch_size that {parts} divides.")
    if parts > 1 and "previous" in views:
        raise UserError(
            f"'accumulate' {parts} takes batches apart, and --transfer {config['transfer']} compares each with the one "
            "before.\nLeave 'accumulate' out."
        )
    if size < least:
        raise UserError(
            f"{given}: {config['distiller']} compares the examples of a {'part' if parts > 1 else 'batch'}, and below "
            f"{least} of them a loss is constant.\n"
            f"Take a --batch_size of {least * parts} or more; the method's paper has 64 or more."
        )
    if least > 1 and size < FEW:
        what = "a part" if parts > 1 else "this batch"
        return [f"{given}: {config['distiller']} compares examples; {what} has few to compare."]
    return []


def _check_head(config: dict, method: distiller.Distiller | None) -> None:
    """Raises `UserError` if a method that reuses the teacher's classifier would leave the student's untrained.

    In a sum another method may teach the classifier, so sums are not checked.
    """
    if method is None or not method.reuses_classifier:
        return
    if config["distiller_options"].get("ce_weight", method.ce_weight):  # data without labels have set it to 0
        return
    if config["init_head"] != "teacher" or CLASSIFIER not in names_in(config["freeze"]):
        raise UserError(
            f"--distiller {config['distiller']} does not teach the classifier: it has to be the teacher's, and stay.\n"
            "Add --init_head teacher --freeze classifier, or a label loss: --config.distiller_options.ce_weight=1"
        )


def _temperatures(options: Mapping, path: str = "") -> list[tuple[str, float]]:
    """Returns (path, value) of each temperature in the options of a method or strategy."""
    found = []
    for name, value in options.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            found += _temperatures(value, here)
        elif name.startswith("temperature"):
            found += [(here, one) for one in (value if isinstance(value, tuple) else (value,))]
    return found


def teacher_command(config: Mapping) -> str:
    """Returns a command that trains a teacher for this config."""
    arch = (names_in(config["teacher_arch"]) or ["ResNet20"])[0]
    own = {key: config[key] for key in data.KEYS if config[key] not in ("", 0, "auto")}
    name = config["dataset"]
    if not _load(config).labelled:  # a teacher learns from labels
        name, own = "ImageFolder", {**own, "data_dir": "LABELLED"}
    flags = "".join(f" --{key}" if value is True else f" --{key} {value}" for key, value in own.items())
    return f"python train_teacher.py --arch {arch} --dataset {name}{flags} --train_path runs/teacher"


def _check_teachers(config: dict, found: list[str]) -> None:
    """Raises `UserError` unless `--teacher_arch` agrees with the weights, whose architectures are `found`."""
    archs, params = names_in(config["teacher_arch"]), names_in(config["teacher_param"])
    if archs and params and len(archs) != len(params):
        raise UserError(
            f"--teacher_arch names {len(archs)} networks and --teacher_param {len(params)} weights: "
            f"{config['teacher_arch']} and {config['teacher_param']}.\n"
            "Give as many of both, or leave --teacher_arch out."
        )
    for arch, param in zip(found, params, strict=True):
        if ":" in arch and not archs:  # a file beside weights must not choose what is imported
            raise UserError(
                f"The weights in {param} are of '{arch}', code outside this library.\n"
                f"If you trust that code: --teacher_arch {arch}"
            )
    for asked, arch, param in zip(archs, found, params, strict=False):
        if asked != arch:
            raise UserError(f"--teacher_arch is {asked}, but the weights in {param} are of {arch}.")
