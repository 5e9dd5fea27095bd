"""From a recipe to a checked, plain config: every key known, every value of the right type and possible."""

import importlib.util
import math
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

import data
import distiller
import models
import transfer
from registry import UserError, unknown

CHOICES = {
    "schedule": ("step", "cosine", "constant"),
    "crop_mode": ("zero", "reflect"),
    "flip": ("auto", "yes", "no"),
    "dtype": ("float32", "bfloat16"),
}
POSITIVE = ("train_epoch", "batch_size", "log_every", "eval_every", "learning_rate")
NOT_NEGATIVE = ("num_labels", "image_size", "weight_decay", "momentum", "checkpoint_seconds", "keep_epochs", "seed")
# These may differ when a run is resumed: they change no number (data and teacher are known by fingerprints).
FREE = ("train_path", "data_dir", "teacher_param", "checkpoint_seconds", "keep_epochs")


def defaults() -> ConfigDict:
    """A fresh copy of `configs/default.py`."""
    path = pathlib.Path(__file__).parent.parent / "configs" / "default.py"
    spec = importlib.util.spec_from_file_location("configs_default", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def merge(recipe: ConfigDict | dict) -> ConfigDict:
    """The defaults with a recipe's keys over them.

    Raises:
        UserError: a key that the defaults do not have (with the nearest), or a value of another type.
    """
    config = defaults()
    for key, value in dict(recipe).items():
        if key not in config:
            raise unknown("config key", key, config.keys())
        config[key] = _typed(key, config[key], value)
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
    transfer.registry.check(config.transfer)
    if config.teacher_arch:
        models.registry.check(config.teacher_arch)
    if config.distiller:
        distiller.create(config.distiller, **plain(config.distiller_options))
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise unknown(key, config[key], choices)
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
    if config.seed >= 2**31:
        raise UserError(f"'seed' must be below 2**31; got {config.seed}.")


def default_train_path(config: ConfigDict) -> str:
    """runs/<dataset>-<student>-<how>-s<seed>: the same command finds its run again."""
    how = f"{config.transfer}-{config.distiller}" if config.distiller else config.transfer
    name = f"{config.dataset}-{config.student_arch}-{how}-s{config.seed}".lower()
    return "runs/" + re.sub(r"[^a-z0-9+-]", "_", name)


def differences(old: dict, new: dict) -> list[str]:
    """One line per key that two plain configs differ in and that changes numbers."""
    keys = [k for k in {**old, **new} if k not in FREE and old.get(k) != new.get(k)]
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in keys]
