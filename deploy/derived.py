"""Weights that are made from other weights: what model.json says of them, and where they are written."""

import pathlib

import pretrained
from configs.environment import command_line
from registry import UserError

MEASURED = ("sha256", "test", "epoch", "val_top1")  # true of the weights before, not of what is made from them


def info_of(weights: pretrained.Pretrained, options: dict, **facts) -> dict:
    """model.json of what is made from weights: the network's new `options`, and `facts` on how they were made."""
    info = {key: value for key, value in weights.info.items() if key not in MEASURED}
    return {**info, "options": options, "test_top1": None, "command": command_line(), **facts}


def new_folder(out: str) -> pathlib.Path:
    """The folder of `--out`. Raises `UserError` if it exists."""
    folder = pathlib.Path(out).expanduser()
    if folder.exists():
        raise UserError(f"--out {out} exists already.\nChoose another folder.")
    return folder


def write(folder: pathlib.Path, variables: dict, info: dict) -> None:
    """Writes a folder of weights, and the folders above it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    pretrained.save(folder, variables, info)
