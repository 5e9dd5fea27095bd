"""Files and folders that are written whole or not at all, SHA-256 digests, and sizes as text.

A kill, a full disk or a power cut can stop a write in the middle. A half-written file under its final name looks
like a whole file. Therefore the content goes to a name that ends in `.part`, is forced to the disk, and is renamed
last. A reader sees the old content or the new content, never a mixture.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

PART, OLD = ".part", ".old"  # end the names of what is not finished, and of what is just being replaced
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Path = str | os.PathLike


def write_whole(path: Path, content: bytes | str, shared: bool = False) -> None:
    """Writes a file whole or not at all; replaces the file that `path` names.

    Args:
        path: the file; its folder exists.
        content: all of it; a string is encoded as UTF-8.
        shared: whether another process may write the same file at the same time. The part file then has a random
            name, `<name>.<random>.part`, instead of `<name>.part`.

    Raises:
        OSError: the file cannot be written. The old file is as it was, and no part file is left.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}" if shared else path.name + PART)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, content: dict, shared: bool = False) -> None:
    """`write_whole` of a JSON object, indented by 2, with a newline at the end."""
    write_whole(path, json.dumps(content, indent=2) + "\n", shared)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
    """A new folder, `<path>.part`, that becomes `path` when the block ends, or goes away when the block raises.

    At the end every file and folder inside is forced to the disk before the rename. A folder that `path` names before
    is replaced: it is called `<path>.old` for the moment between two renames. If a kill falls into that moment, the
    next call renames it back first. Left-overs of a killed call are removed.

    Args:
        path: the folder; its parents are made if needed.

    Yields:
        The `.part` folder, empty.

    Raises:
        OSError: the folder cannot be written. What `path` names is as it was.
    """
    path = pathlib.Path(path)
    part, old = path.with_name(path.name + PART), path.with_name(path.name + OLD)
    if old.exists() and not path.exists():
        old.replace(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for inside in part.rglob("*"):
            sync(inside)
        sync(part)
        _replace(path, part, old)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(path.parent)


def _replace(path: pathlib.Path, part: pathlib.Path, old: pathlib.Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if not path.exists():
        part.replace(path)
        return
    path.replace(old)
    try:
        part.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Forces a file's bytes, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits; the file is read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free(path: Path) -> int | None:
    """Bytes that are free on the disk of `path`; None where the disk does not answer."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def size_text(size: float | None) -> str:
    """A number of bytes with one decimal in kB, MB or GB (powers of 1,000); "unknown" for None."""
    if size is None:
        return "unknown"
    unit, name = next((u for u in UNITS if size >= u[0]), UNITS[-1])
    return f"{size / unit:,.1f} {name}"
