"""Which folder a run has, and that it has one writer: a lock that the kernel takes back when its process ends.

Imports nothing slow: the command lines look here before they import JAX.
"""

import fcntl
import os
import pathlib
import platform
import re
import time
from collections.abc import Mapping

from registry import UserError

FILE = ".lock"
PATIENCE = 0.3  # seconds; whoever only looks (`refuse_second`) holds the lock for microseconds


def default_train_path(config: Mapping) -> str:
    """runs/<dataset>-<student>-<how>-s<seed>: the same command finds its run again."""
    how, seed, seeds = config["transfer"], config["seed"], config["seeds"]
    how += f"-{config['distiller']}" if config["distiller"] else ""
    span = f"s{seed}" if seeds == 1 else f"s{seed}-{seed + seeds - 1}"
    return "runs/" + re.sub(r"[^a-z0-9+-]", "_", f"{config['dataset']}-{config['student_arch']}-{how}-{span}".lower())


def acquire(folder: pathlib.Path):
    """Makes the folder where needed and locks it.

    Returns:
        The open lock file; closing it gives the lock back.

    Raises:
        UserError: the folder cannot be written, or another process has the lock (with that process's number).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE).open("a+b")
    except OSError as error:
        raise UserError(f"Cannot write to --train_path {folder}: {error.strerror}. Choose another.") from None
    end = time.monotonic() + PATIENCE
    while not _locked(file, fcntl.LOCK_EX):
        if time.monotonic() > end:
            with file:
                raise _taken(folder, file)
        time.sleep(0.02)
    note = f"process {os.getpid()} on {platform.node()}\n".encode()
    file.truncate(0)  # what a dead process wrote
    file.write(note)
    file.flush()
    return file


def refuse_second(path: str | os.PathLike) -> None:
    """Raises `UserError` when another process is writing to a run folder. Imports nothing, makes nothing."""
    folder = pathlib.Path(path).expanduser()
    try:
        file = (folder / FILE).open("rb")
    except OSError:
        return  # no run yet, or one that `acquire` will have something to say about
    with file:
        if not _locked(file, fcntl.LOCK_SH):
            raise _taken(folder, file)


def _locked(file, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _taken(folder: pathlib.Path, file) -> UserError:
    file.seek(0)
    who = file.read().decode(errors="replace").strip() or "another process"
    return UserError(f"{folder} is being written by {who}. Wait for it, stop it, or choose another --train_path.")
