"""A cache of decoded images in the user's cache folder. Decoding takes seconds to minutes, reading the cache does not.

If the cache is damaged or cannot be read, the images are decoded from their source again.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import PIL

ABANDONED = 3600  # seconds; an unfinished file that is older was left by a killed process


def cache_folder(name: str) -> pathlib.Path:
    """A folder for files that the library can make again."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kd-cookbook" / name


def kept(name: str, sources: Iterable[str | os.PathLike], decode: Callable) -> list[np.ndarray]:
    """The arrays that `decode` returns: read from the cache, or decoded and written to it.

    The arrays are written to the cache and read from it without a copy in memory. Older arrays of the same name are
    removed from the cache.

    Args:
        name: the first part of the file's name.
        sources: the files that `decode` reads. The cache is valid for the same paths, sizes and times of change, and
            for the same versions of OpenCV and Pillow.
        decode: () -> a sequence of arrays, of a type that needs no pickle.
    """
    try:
        facts = [
            (os.path.abspath(p), (s := os.stat(p)).st_size, s.st_mtime_ns) for p in sorted(map(os.fspath, sources))
        ]
    except OSError:
        return list(decode())  # raises the error for the missing file
    key = hashlib.sha256(json.dumps([facts, cv2.__version__, PIL.__version__]).encode()).hexdigest()[:16]
    path = cache_folder("decoded") / f"{name}-{key}.npys"
    with contextlib.suppress(OSError):
        found = _read(path)
        if found:
            return found
        _warn(f"{path} is damaged; the images are decoded again.")
    arrays = list(decode())
    try:
        _write(path, arrays)
    except OSError as error:
        reason = error.strerror or error
        _warn(f"the decoded images cannot be kept in {path.parent} ({reason}); every start decodes them again.")
    return arrays


def _read(path: pathlib.Path) -> list[np.ndarray] | None:
    """The arrays, or None where the file is damaged."""
    # np.load reads the file and does not map it: a read error in a mapped file ends the process
    with path.open("rb") as file:
        try:
            count = int(np.load(file))
            arrays = [np.load(file, allow_pickle=False) for _ in range(count)]
            digest = np.load(file).tobytes()
        except Exception as error:  # NumPy raises many kinds for a damaged file
            if isinstance(error, OSError) and error.errno:  # a file that cannot be read is not damaged
                raise
            return None
    return arrays if digest == _digest(arrays) else None


def _write(path: pathlib.Path, arrays: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > ABANDONED:
                shutil.rmtree(left)
    size, free = sum(array.nbytes for array in arrays), shutil.disk_usage(path.parent).free
    if size > free / 2:
        raise OSError(None, f"{size / 1e9:.1f} GB, more than half of the free space")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # another process may write the same file
        part = pathlib.Path(folder) / path.name
        with part.open("wb") as file:
            for array in (np.asarray(len(arrays)), *arrays, np.frombuffer(_digest(arrays), np.uint8)):
                np.save(file, array, allow_pickle=False)
        os.replace(part, path)
    for old in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*"):
        if old != path:
            old.unlink(missing_ok=True)


def _digest(arrays: list[np.ndarray]) -> bytes:
    digest = hashlib.sha256(json.dumps([(array.shape, array.dtype.str) for array in arrays]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array))  # no copy of a contiguous array
    return digest.digest()


def _warn(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr, flush=True)
