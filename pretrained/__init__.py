"""Weights as files: `weights.safetensors` with `model.json` beside it, read without pickle.

A folder in this form is what a finished run's `last/` and `best/` are, what is shipped here, and what
`--teacher_param` takes (a run folder means its `last/`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from pretrained.torch_format import differences, from_torch, to_torch
from registry import DamagedFileError, UserError

__all__ = ["Pretrained", "check", "check_info", "find", "from_torch", "load", "save", "to_torch"]

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
REQUIRED = {"arch": str, "num_classes": int, "class_names": list, "dataset": str, "image_shape": list}
REQUIRED |= {"mean": list, "std": list, "test_top1": (int, float, type(None))}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights and what is known about them.

    Attributes:
        folder: where they lie.
        variables: `{"params", "batch_stats"}`, nested dicts of NumPy arrays.
        info: `model.json`: arch, num_classes, class_names, dataset, image_shape [H, W, C], mean, std (of pixels in
            [0, 1]), test_top1 (percent), options (of the network, for `models.create`; may be missing), command, ...
        sha256: of the weights' file.
    """

    folder: pathlib.Path
    variables: dict
    info: dict
    sha256: str


def save(folder: str | os.PathLike, variables: dict, info: dict) -> None:
    """Writes weights and their description, whole or not at all; what was in `folder` before is replaced.

    Args:
        folder: made if needed.
        variables: `{"params", "batch_stats"}`.
        info: see `Pretrained.info`.
    """
    folder = pathlib.Path(folder)
    flat = {n: np.asarray(x) for n, x in traverse_util.flatten_dict(variables, sep="/").items()}
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    content = safetensors.numpy.save({n: np.ascontiguousarray(x) for n, x in flat.items()})
    (part / WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (part / DESCRIPTION).write_text(json.dumps({**info, "sha256": digest}, indent=2) + "\n")
    for name in (WEIGHTS, DESCRIPTION):  # on the disk before they replace anything
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    part.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(path: str | os.PathLike) -> pathlib.Path:
    """The folder of weights that `path` means: itself, or a run folder's `last/`.

    Raises:
        UserError: there is none, with what to run.
    """
    root = pathlib.Path(path).expanduser()
    here = pathlib.Path(__file__).parent.parent
    for folder in (root, root / "last", here / root, here / root / "last"):
        if (folder / WEIGHTS).is_file() and (folder / DESCRIPTION).is_file():
            return folder
    if (root / "config.json").is_file():
        raise UserError(f"The run {root} is not finished: it has no last/ yet. Repeat its command to go on with it.")
    shipped = ", ".join(f"pretrained/{p.parent.name}" for p in sorted((here / "pretrained").glob(f"*/{WEIGHTS}")))
    raise UserError(
        f"No weights in '{path}': {WEIGHTS} and {DESCRIPTION} are missing. Shipped: {shipped or 'none'}.\n"
        f"To train a teacher: python train_teacher.py --arch ResNet20 --train_path {path}"
    )


def load(path: str | os.PathLike) -> Pretrained:
    """Reads weights.

    Args:
        path: a folder of weights, or a finished run's folder.

    Raises:
        UserError: nothing there. DamagedFileError: unreadable, or not what was written.
    """
    folder = find(path)
    try:
        info = json.loads((folder / DESCRIPTION).read_text(), parse_constant=_no_constant)
        check_info(info)
    except (ValueError, AttributeError) as error:
        raise DamagedFileError(f"{folder / DESCRIPTION} is damaged: {error}. Restore it.") from None
    except OSError as error:
        raise UserError(f"Cannot read {folder / DESCRIPTION}: {error.strerror}.") from None
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {folder / WEIGHTS}: {error.strerror}.") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != info.get("sha256", digest):
        raise DamagedFileError(
            f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one in {DESCRIPTION}. Restore it."
        )
    try:
        flat = safetensors.numpy.load(content)
    except Exception as error:  # safetensors raises its own kinds
        raise DamagedFileError(f"{folder / WEIGHTS} is damaged: {error}. Restore it.") from None
    bad = [name for name, value in flat.items() if value.dtype != np.float32 or not np.isfinite(value).all()]
    if bad:
        raise DamagedFileError(f"{folder / WEIGHTS} is damaged: '{bad[0]}' is not finite float32 (of {len(bad)}).")
    return Pretrained(folder, traverse_util.unflatten_dict(flat, sep="/"), info, digest)


def _no_constant(text: str):
    raise ValueError(f"{text} is no JSON number")


def check_info(info: dict) -> None:
    """Raises `ValueError` that names the first entry which is missing or makes no sense."""
    for key, kind in REQUIRED.items():
        if not isinstance(info.get(key), kind):
            raise ValueError(f"'{key}' is missing or of the wrong type")
    if not isinstance(info.get("options", {}), dict) or {"num_classes", "dtype"} & info.get("options", {}).keys():
        raise ValueError("'options' must be a dict, without 'num_classes' and 'dtype'")
    shape, mean, std = info["image_shape"], info["mean"], info["std"]
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"'image_shape' must be [height, width, channels]; it is {shape}")
    if not len(mean) == len(std) == shape[2] or not all(isinstance(x, (int, float)) for x in [*mean, *std]):
        raise ValueError(f"'mean' and 'std' must be {shape[2]} numbers each; they are {mean} and {std}")
    if min(std) <= 0 or len(info["class_names"]) != info["num_classes"]:
        raise ValueError("'std' must be above 0, and 'class_names' as many as 'num_classes'")


def check(weights: Pretrained, model: nn.Module) -> dict:
    """The weights as variables of `model`.

    Raises:
        UserError: names or shapes differ: the missing and unexpected names and the first wrong shape.
    """
    image = jax.ShapeDtypeStruct((1, *weights.info["image_shape"]), jnp.float32)
    expected = jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    want = {n: x.shape for n, x in traverse_util.flatten_dict(dict(expected), sep="/").items()}
    have = {n: x.shape for n, x in traverse_util.flatten_dict(weights.variables, sep="/").items()}
    problems = differences(want, have)
    if problems:
        raise UserError(f"The weights in {weights.folder} do not fit the network: {'; '.join(problems)}.")
    return {"params": weights.variables["params"], "batch_stats": weights.variables.get("batch_stats", {})}
