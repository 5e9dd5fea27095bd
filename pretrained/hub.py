"""Weights of this project on the Hugging Face hub: `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`.

A repository has the files of a folder of weights, `weights.safetensors` and `model.json`, at its top. No other file is
fetched, so nothing that is fetched can run code. `python -m deploy.push` makes such a repository.
"""

import functools
import os
import pathlib
import re

from registry import UserError

PREFIX = "hf:"
NAME = r"[\w.-]+/[\w.-]+"


def is_hub(path: str | os.PathLike) -> bool:
    """Whether `path` names a repository of the hub."""
    return os.fspath(path).startswith(PREFIX)


def library():
    """The package `huggingface_hub`; `UserError` where the extra is missing."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("The Hugging Face hub needs an extra: pip install 'kd-cookbook[hub]'") from None
    return huggingface_hub


def check_name(name: str, example: str) -> str:
    """Returns `name`; raises `UserError` unless it is OWNER/NAME. `example` is for the message."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"'{name}' is no repository of the hub.\nExample: {example}")
    return name


def reason(error: Exception) -> str:
    """An error of the hub's library, as one line."""
    return (" ".join(str(error).split())[:200] or type(error).__name__).rstrip(".")


@functools.cache
def fetch(path: str, files: tuple[str, ...]) -> pathlib.Path:
    """Downloads the files of a repository into the hub's cache. Without a network the cache's files are taken.

    Args:
        path: hf:OWNER/NAME, or hf:OWNER/NAME@REVISION.
        files: the names of the files.

    Returns:
        The folder of the files, all of one revision.

    Raises:
        UserError: the extra `hub` is missing, no such repository, or a file is missing.
    """
    name, _, revision = path.removeprefix(PREFIX).partition("@")
    check_name(name, "--teacher_param hf:OWNER/NAME")
    try:
        folder = library().snapshot_download(name, revision=revision or None, allow_patterns=list(files))
    except UserError:
        raise
    except Exception as error:  # no network, no such repository, no right to read it: each its own kind
        raise UserError(f"Cannot fetch {path}: {reason(error)}.") from None
    missing = [file for file in files if not (pathlib.Path(folder) / file).is_file()]
    if missing:
        raise UserError(
            f"{path} has no {' and no '.join(missing)}: no weights of this library.\n"
            "Convert other weights: python -m pretrained.convert --hub OWNER/NAME --help"
        )
    return pathlib.Path(folder)
