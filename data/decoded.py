"""Decoded splits in the user's cache folder: reading 60,000 small images takes seconds, reading their bytes none.

A cache: whatever is wrong with it, the images are decoded from their source again.
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
from collections.abc import Callable

import cv2
import numpy as np
import safetensors.numpy

LEFT = 3600  # seconds after which nobody is writing any more


def cache_folder(name: str) -> pathlib.Path:
    """Where the library keeps what can be made again."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kd-cookbook" / name


def kept(name: str, sources: list[pathlib.Path], decode: Callable) -> tuple[np.ndarray, np.ndarray]:
    """What `decode` gave once, as long as its sources stay as they are.

    Args:
        name: of the split; part of the file's name.
        sources: the files that `decode` reads. Another path, size or time of change is another split, and so is
            another version of OpenCV.
        decode: () -> (images [N, H, W, C] uint8, labels [N] int32).
    """
    try:
        facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(sources)]
    except OSError:
        return decode()  # knows what to say of a missing file
    key = hashlib.sha256(json.dumps([facts, cv2.__version__]).encode()).hexdigest()[:16]
    path = cache_folder("decoded") / f"{name}-{key}.safetensors"
    with contextlib.suppress(OSError):
        found = _read(path)
        if found:
            return found
        _warn(f"{path} is damaged; the images are decoded anew.")
    images, labels = decode()
    try:
        _write(path, images, labels)
    except OSError as error:
        _warn(f"the decoded images cannot be kept in {path.parent} ({error.strerror}); every start decodes them anew.")
    return images, labels


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The arrays, or None where they are not what was written."""
    try:
        # not load_file: an error in a mapped file ends the process, and so does an exit while a thread is in that
        arrays = safetensors.numpy.load(path.read_bytes())
        images, labels, digest = arrays["images"], arrays["labels"], arrays["sha256"]
    except OSError:  # what cannot be read is not damaged
        raise
    except Exception:  # safetensors raises its own kinds
        return None
    return (images, labels) if digest.tobytes() == _digest(images, labels) else None


def _write(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("tmp*"):  # by a process that was killed while it wrote
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > LEFT:
                shutil.rmtree(left)
    digest = np.frombuffer(_digest(images, labels), np.uint8)
    content = safetensors.numpy.save({"images": images, "labels": labels, "sha256": digest})
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # of its own: another process may write it, too
        part = pathlib.Path(folder) / path.name
        part.write_bytes(content)
        os.replace(part, path)


def _digest(images: np.ndarray, labels: np.ndarray) -> bytes:
    digest = hashlib.sha256(json.dumps([images.shape, labels.shape]).encode())
    for array in (images, labels):
        digest.update(np.ascontiguousarray(array))
    return digest.digest()


def _warn(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr, flush=True)
