"""Files and folders that are written whole or not at all, manifests, locks, and sizes as text.

A kill, a full disk or a power cut can stop a write in the middle. A half-written file under its final name looks
like a whole file. Therefore the content goes to a name that ends in `.part`, is forced to the disk, and is renamed
last. A reader sees the old content or the new content, never a mixture.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import secrets
import shutil
import time
from collections.abc import Iterator

from registry import UserError

PART, OLD = ".part", ".old"  # suffixes of unfinished files and folders, and of a folder that is being replaced
MANIFEST, LOCK = "MANIFEST", ".lock"
DIGEST = 65  # bytes of a manifest's last line, the SHA-256 of the lines before it
PATIENCE = 0.3  # seconds to wait for a lock; `refuse_second` in another process holds it for microseconds
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Path = str | os.PathLike


def write_whole(path: Path, content: bytes | str, shared: bool = False) -> None:
    """Writes a file whole or not at all; replaces the file that `path` names.

    Args:
        path: the file; its folder exists.
        content: the whole content; a string is encoded as UTF-8.
        shared: whether another process may write the same file at the same time. The part file then has a random
            name, `<name>.<random>.part`, instead of `<name>.part`.

    Raises:
        OSError: the file cannot be written. The old file is unchanged, and no part file is left.
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
    """Makes a folder `<path>.part`, renames it to `path` when the block ends, and removes it when the block raises.

    Before the rename every file and folder inside is forced to the disk. If `path` exists, the old folder is replaced:
    it has the name `<path>.old` between two renames. If a kill comes between them, the next call first renames the
    old folder back. Left-overs of a killed call are removed.

    Args:
        path: the folder; its parents are made if needed.

    Yields:
        The `.part` folder, empty.

    Raises:
        OSError: the folder cannot be written. The old folder is unchanged.
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
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits. The file is read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free(path: Path) -> int | None:
    """Returns the number of free bytes on the disk of `path`; None if the disk does not report it."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def size_text(size: float | None) -> str:
    """Returns a number of bytes as text, with one decimal, in kB, MB or GB (powers of 1,000); "unknown" for None."""
    if size is None:
        return "unknown"
    unit, name = next((u for u in UNITS if size >= u[0]), UNITS[-1])
    return f"{size / unit:,.1f} {name}"


def write_manifest(folder: Path) -> None:
    """Forces every file of a folder to the disk, then writes the `MANIFEST`.

    The `MANIFEST` has one line per file with SHA-256, size and path. Its last line is the SHA-256 of these lines.
    """
    folder = pathlib.Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    lines = [f"{sha256(path)} {path.stat().st_size} {path.relative_to(folder).as_posix()}\n" for path in files]
    body = "".join(lines).encode()
    (folder / MANIFEST).write_bytes(body + hashlib.sha256(body).hexdigest().encode() + b"\n")
    for path in [folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)


def damage(folder: Path) -> str | None:
    """Compares the files of a folder with its `MANIFEST`.

    Returns:
        The first damaged file and its fault, as text; None if all files are whole.
    """
    folder = pathlib.Path(folder)
    manifest = folder / MANIFEST
    try:
        content = manifest.read_bytes()
    except OSError as error:
        return f"{manifest} is damaged ({_reason(error)})"
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if digest != hashlib.sha256(body).hexdigest().encode() + b"\n":
        return f"{manifest} is damaged ({'altered or truncated' if content else 'empty'})"
    for line in body.decode().splitlines():
        expected, size, name = line.split(" ", 2)
        path = folder / name
        try:
            if path.stat().st_size != int(size) or sha256(path) != expected:
                return f"{path} is damaged ({difference(path.stat().st_size, int(size))})"
        except OSError as error:
            return f"{path} is damaged ({_reason(error)})"
    return None


def difference(size: int, expected: int) -> str:
    """Returns how a damaged file differs from the written one, as text, from both sizes in bytes."""
    if size == expected:
        return "altered: its SHA-256 differs"
    return f"truncated: {size} bytes of {expected}" if size < expected else f"{size} bytes instead of {expected}"


def _reason(error: OSError) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__


def refuse_second(folder: Path) -> None:
    """Raises `UserError` if another process holds the `lock` of a folder. Writes nothing."""
    folder = pathlib.Path(folder)
    try:
        file = (folder / LOCK).open("rb")
    except OSError:
        return  # no lock file yet, or an error that `lock` will report
    with file:
        if not _flock(file, fcntl.LOCK_SH):
            raise _taken(folder, file)


def lock(folder: Path):
    """Makes a folder if needed and locks it. The kernel releases the lock when the process ends.

    Returns:
        The open lock file; closing the file releases the lock.

    Raises:
        UserError: the folder cannot be written, or another process has the lock. The message names that process.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+b")
    except OSError as error:
        raise UserError(f"Cannot write to --train_path {folder}: {error.strerror}. Choose another.") from None
    end = time.monotonic() + PATIENCE
    while not _flock(file, fcntl.LOCK_EX):
        if time.monotonic() > end:
            with file:
                raise _taken(folder, file)
        time.sleep(0.02)
    file.truncate(0)  # removes the text of a dead process
    file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
    file.flush()
    return file


def _flock(file, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _taken(folder: pathlib.Path, file) -> UserError:
    file.seek(0)
    process = file.read().decode(errors="replace").strip() or "another process"
    return UserError(f"{folder} is being written by {process}. Wait for it, stop it, or choose another --train_path.")
