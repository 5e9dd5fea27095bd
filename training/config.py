"""From a recipe to a checked, plain config: every key known, every value of the right type and possible."""

import importlib.util
import json
import math
import pathlib
from typing import Any

from ml_collections import ConfigDict

import data
import distiller
import models
import transfer
from registry import UserError, unknown

CHOICES = {
    "optimizer": ("sgd", "adamw", "dot"),
    "schedule": ("step", "cosine", "constant"),
    "crop_mode": ("zero", "reflect"),
    "flip": ("auto", "yes", "no"),
    "strong_view": ("randaugment", "fixmatch"),
    "dtype": ("float32", "bfloat16"),
    "stack_seeds": ("auto", "yes", "no"),
    "on_nan": ("stop", "skip"),
    "teacher_dtype": ("", "float32", "bfloat16"),
    "teacher_bank_dtype": ("float16", "float32"),
}
POSITIVE = ("train_epoch", "batch_size", "seeds", "log_every", "eval_every", "learning_rate")
NOT_NEGATIVE = ("num_labels", "image_size", "weight_decay", "momentum", "checkpoint_seconds", "seed")
NOT_NEGATIVE += ("resized_crop", "randaugment", "magnitude", "mixup", "cutmix", "ramp_epochs", "clip_norm")
NOT_NEGATIVE += ("teacher_views", "teacher_bank_top_k", "keep_epochs")
# These may differ when a run is resumed (data and teacher are known by fingerprints). The last two change how sums are
# rounded, as another number of devices does.
FREE = ("train_path", "data_dir", "teacher_param", "checkpoint_seconds", "keep_epochs")
FREE += ("steps_per_call", "stack_seeds")


def defaults() -> ConfigDict:
    """A fresh copy of `configs/default.py`."""
    path = pathlib.Path(__file__).parent.parent / "configs" / "default.py"
    spec = importlib.util.spec_from_file_location("configs_default", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def merge(recipe: ConfigDict | dict) -> ConfigDict:
    """The defaults with a recipe's keys over them, and the strategy's own method where none is named.

    Raises:
        UserError: a key that the defaults do not have (with the nearest), or a value of another type.
    """
    config = defaults()
    for key, value in dict(recipe).items():
        if key not in config:
            raise unknown("config key", key, config.keys())
        config[key] = _typed(key, config[key], value)
    rules = transfer.registry.get(config.transfer)
    if rules.needs_method and not config.distiller:
        config.distiller, options = rules.default_method
        config.distiller_options = ConfigDict({**options, **config.distiller_options})
    return config


def _typed(key: str, default: Any, value: Any) -> Any:
    if isinstance(default, ConfigDict):
        if not isinstance(value, (dict, ConfigDict)):
            raise UserError(f"Config key '{key}' must be a dict; got {value!r}.")
        return ConfigDict(dict(value))
    if isinstance(default, tuple) and isinstance(value, (tuple, list)):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(default) is not type(value):
        raise UserError(f"Config key '{key}' must be {type(default).__name__} (default {default!r}); got {value!r}.")
    return value


def plain(config: ConfigDict) -> dict:
    """As plain Python for JSON: tuples become lists, ConfigDicts dicts."""

    def convert(value):
        if isinstance(value, (dict, ConfigDict)):
            return {k: convert(v) for k, v in value.items()}
        return [convert(v) for v in value] if isinstance(value, (list, tuple)) else value

    return convert(config)


def check(config: ConfigDict) -> None:
    """Checks every value that can be checked without data or weights. Imports no method and compiles nothing.

    Raises:
        UserError: what is wrong and the fix.
    """
    data.registry.check(config.dataset)
    models.registry.check(config.student_arch)
    transfer.check(config.transfer, plain(config.transfer_options))
    for arch in filter(None, config.teacher_arch.split(",")):
        models.registry.check(arch.strip())
    if config.distiller:
        distiller.create(config.distiller, **plain(config.distiller_options))
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise unknown(key, config[key], filter(None, choices))
    for key, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"'{key}' must be a finite number; got {value}.")
    for key in POSITIVE:
        if not config[key] > 0:
            raise UserError(f"'{key}' must be above 0; got {config[key]}.")
    for key in NOT_NEGATIVE:
        if not config[key] >= 0:
            raise UserError(f"'{key}' must not be negative; got {config[key]}.")
    marks = config.milestones
    if not all(isinstance(m, (int, float)) and 0 < m < 1 for m in marks) or list(marks) != sorted(marks):
        raise UserError(f"'milestones' are rising shares of the training between 0 and 1; got {marks}.")
    if config.momentum >= 1 or not 0 < config.decay_factor <= 1 or config.crop_pad < -1:
        raise UserError(
            "'momentum' must be below 1, 'decay_factor' above 0 and at most 1, 'crop_pad' -1 (the dataset's) or more; "
            f"got {config.momentum}, {config.decay_factor}, {config.crop_pad}."
        )
    if config.seed + config.seeds > 2**31:
        raise UserError(f"'seed' and the 'seeds' after it must be below 2**31; got {config.seed}, {config.seeds}.")
    calls = config.steps_per_call
    if calls != "auto" and not (calls.isdecimal() and int(calls)):
        raise UserError(f"'steps_per_call' must be 'auto' or a whole number above 0; got '{calls}'.")
    if config.resized_crop > 1 or config.magnitude > 30:
        raise UserError(
            "'resized_crop' is a share of the area, at most 1, and 'magnitude' is at most 30; "
            f"got {config.resized_crop}, {config.magnitude}."
        )
    if config.resized_crop and config.crop_pad > 0:
        raise UserError(
            f"'resized_crop' takes the place of 'crop_pad'; got {config.resized_crop}, {config.crop_pad}. Set one to 0."
        )
    if config.optimizer != "sgd" and config.nesterov:
        raise UserError(f"'nesterov' belongs to optimizer 'sgd'; got optimizer '{config.optimizer}'.")
    if config.optimizer == "dot" and config.clip_norm:
        raise UserError(
            f"'clip_norm' {config.clip_norm} clips the sum of what optimizer 'dot' takes apart. Set it to 0."
        )
    if config.ramp_epochs > config.train_epoch:
        raise UserError(f"'ramp_epochs' {config.ramp_epochs} is more than 'train_epoch' {config.train_epoch}.")


def differences(old: dict, new: dict) -> list[str]:
    """One line per key that two plain configs differ in and that changes numbers.

    A key that one of them does not know yet has its default there.
    """
    old, new = ({**json.loads(defaults().to_json()), **config} for config in (old, new))
    keys = [k for k in {**old, **new} if k not in FREE and old.get(k) != new.get(k)]
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in keys]
