"""Weights as files: `weights.safetensors` with `model.json` beside it, read without pickle.

A folder of weights is a folder with these two files. A finished run has two such folders, `last/` and `best/`.
`pretrained/` ships some. `python -m pretrained.convert` makes one from other people's files. `--teacher_param` and
`--param` take a folder of weights, a run folder, which stands for its `last/`, or `hf:OWNER/NAME`, a repository of the
Hugging Face hub (`pretrained/hub.py`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

import files
from pretrained import hub
from pretrained.torch_format import differences, from_torch, to_torch
from registry import DamagedFileError, UserError

__all__ = ["Pretrained", "check", "check_info", "describe", "find", "from_torch", "load", "save", "to_torch"]

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
REQUIRED = {"arch": str, "num_classes": int, "class_names": list, "dataset": str, "image_shape": list}
REQUIRED |= {"mean": list, "std": list, "test_top1": (int, float, type(None))}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights and their description.

    Attributes:
        folder: the folder that the weights were read from.
        variables: `{"params", "batch_stats"}`, nested dicts of NumPy arrays, float32.
        info: `model.json`: arch, num_classes, class_names, dataset, image_shape [H, W, C], mean, std (of pixels in
            [0, 1]), test_top1 (percent, or None), resize (pixels of the short side that images are cropped from; may
            be missing), interpolation (of the resizing; may be missing), options (the network's, for `models.create`;
            may be missing), command, ...
        sha256: of the file `weights.safetensors`.
    """

    folder: pathlib.Path
    variables: dict
    info: dict
    sha256: str


def save(folder: str | os.PathLike, variables: dict, info: dict) -> None:
    """Writes a folder of weights whole or not at all. Replaces an existing folder of this name.

    The new weights are read back and checked before anything is replaced.

    Args:
        folder: made if needed.
        variables: `{"params", "batch_stats"}`, arrays of finite float32.
        info: see `Pretrained.info`.

    Raises:
        OSError: the folder cannot be written. DamagedFileError: the weights are not finite float32, the description
            lacks an entry, or the disk gives back other bytes. The old folder stays as it was.
    """
    flat = {n: np.asarray(x) for n, x in traverse_util.flatten_dict(variables, sep="/").items()}
    content = safetensors.numpy.save({n: np.ascontiguousarray(x) for n, x in flat.items()})
    with files.whole_folder(folder) as part:
        (part / WEIGHTS).write_bytes(content)
        files.write_json(part / DESCRIPTION, {**info, "sha256": hashlib.sha256(content).hexdigest()})
        load(part)


def find(path: str | os.PathLike, command: str = "") -> pathlib.Path:
    """The folder of weights that `path` stands for: `path` itself, or the `last/` of the run folder `path`.

    Args:
        path: a folder, or hf:OWNER/NAME, which is downloaded.
        command: for the message, a command that trains such weights.

    Raises:
        UserError: `path` is neither. The message has a command that trains such weights.
    """
    if hub.is_hub(path):
        return hub.fetch(os.fspath(path), (WEIGHTS, DESCRIPTION))
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
        f"To train a teacher: {command or f'python train_teacher.py --arch ResNet20 --train_path {path}'}"
    )


def describe(path: str | os.PathLike, command: str = "") -> dict:
    """Reads the description of a folder of weights (`Pretrained.info`) and not the weights; see `load`."""
    return _described(path, command)[1]


def task_of(info: dict) -> str:
    """The task ("classification", "detection") of weights that are described so."""
    return info.get("task", "classification")


def _described(path: str | os.PathLike, command: str) -> tuple[pathlib.Path, dict]:
    folder = find(path, command)
    try:
        info = json.loads((folder / DESCRIPTION).read_text(), parse_constant=_no_constant)
        check_info(info)
    except (ValueError, AttributeError) as error:
        raise DamagedFileError(f"{folder / DESCRIPTION} is damaged: {error}. Restore it.") from None
    except OSError as error:
        raise UserError(f"Cannot read {folder / DESCRIPTION}: {error.strerror}.") from None
    return folder, info


def load(path: str | os.PathLike, command: str = "") -> Pretrained:
    """Reads a folder of weights and checks it.

    Args:
        path: a folder of weights, or a finished run's folder.
        command: as in `find`.

    Raises:
        UserError: there is no folder of weights, or a file in it cannot be read. DamagedFileError: a file is damaged.
    """
    folder, info = _described(path, command)
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
    """Raises `ValueError` with the name of the first entry that is missing or has an impossible value."""
    for key, kind in REQUIRED.items():
        if not isinstance(info.get(key), kind):
            raise ValueError(f"'{key}' is missing or of the wrong type")
    if not isinstance(info.get("options", {}), dict) or {"num_classes", "dtype"} & info.get("options", {}).keys():
        raise ValueError("'options' must be a dict, without 'num_classes' and 'dtype'")
    for key, kind in {"resize": int, "interpolation": str}.items():
        if not isinstance(info.get(key, kind()), kind):
            raise ValueError(f"'{key}' is of the wrong type")
    shape, mean, std = info["image_shape"], info["mean"], info["std"]
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"'image_shape' must be [height, width, channels]; it is {shape}")
    if not len(mean) == len(std) == shape[2] or not all(isinstance(x, (int, float)) for x in [*mean, *std]):
        raise ValueError(f"'mean' and 'std' must be {shape[2]} numbers each; they are {mean} and {std}")
    if min(std) <= 0 or len(info["class_names"]) != info["num_classes"]:
        raise ValueError("'std' must be above 0, and 'class_names' as many as 'num_classes'")


def check(weights: Pretrained, model: nn.Module) -> dict:
    """Checks that weights fit a network.

    Returns:
        `{"params", "batch_stats"}`, variables of `model`.

    Raises:
        UserError: names or shapes differ; the message lists missing and unexpected names and the first wrong shape.
    """
    image = jax.ShapeDtypeStruct((1, *weights.info["image_shape"]), jnp.float32)
    expected = jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    want = {n: x.shape for n, x in traverse_util.flatten_dict(dict(expected), sep="/").items()}
    have = {n: x.shape for n, x in traverse_util.flatten_dict(weights.variables, sep="/").items()}
    problems = differences(want, have)
    if problems:
        raise UserError(f"The weights in {weights.folder} do not fit the network: {'; '.join(problems)}.")
    return {"params": weights.variables["params"], "batch_stats": weights.variables.get("batch_stats", {})}
