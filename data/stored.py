"""A cache on disk of arrays with a row for each example. Its key holds everything that the numbers depend on.

    FOLDER/stored.json   NAME.npy ...

`stored.json` has the key and the SHA-256 of each array. A folder with another key, or a damaged one, counts as empty.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data.decoded import cache_folder
from files import free, sha256, size_text, whole_folder, write_json
from registry import DamagedFileError, NonFiniteError, UserError

DESCRIPTION = "stored.json"
Arrays = dict[str, tuple[tuple[int, ...], np.dtype]]  # name -> (shape, type)
Blocks = Iterable[dict[str, np.ndarray]]  # name -> the next rows of this array


def obtain(
    folder: pathlib.Path | None,
    key: dict,
    arrays: Arrays,
    blocks: Callable[[], Blocks],
    what: str,
    advice: str,
    say: Callable,
    warn: Callable,
) -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays from a folder. If it has no undamaged arrays of this key, computes and writes them.

    Args:
        folder: None: the arrays are computed and kept in memory.
        key: everything that the numbers depend on, in JSON's types.
        arrays: name -> (shape, type).
        blocks: () -> the blocks; starts computing.
        what: a description of the arrays, for messages.
        advice: what the user can do if the arrays cannot be written, for the message.
        say, warn: functions that print a line of text.

    Returns:
        (name -> array, mapped from its file if there is a folder; how the arrays were obtained, in words).

    Raises:
        UserError: the folder cannot be written. DamagedFileError: the folder reads back differently.
    """
    found = read(folder, key, arrays, warn) if folder else None
    if found is not None:
        return found, "read"
    say(f"{what}: computing ...")
    start = time.monotonic()
    if folder is None:
        return collect(arrays, blocks()), "in memory alone"
    try:
        if (free(folder.parent) or size(arrays)) < size(arrays):
            raise OSError(0, "too little space is left")
        write(folder, key, arrays, blocks())
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error.strerror}. {what}.\n{advice}") from None
    found = read(folder, key, arrays, warn)
    if found is None:
        raise DamagedFileError(f"{folder} reads back differently than written. Check the disk, or choose another.")
    return found, f"computed in {time.monotonic() - start:.1f} s"


def shared_folder(key: dict) -> pathlib.Path:
    """The folder in the user's cache in which all runs look for the arrays of a key."""
    return cache_folder("banks") / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raises `UserError` if a device reports less than `needed` bytes of free memory."""
    for device in jax.local_devices():
        memory = device.memory_stats() or {}
        left = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
        if "bytes_limit" in memory and left < needed:
            raise UserError(
                f"{what} takes {size_text(needed)} on every device; {device} has {size_text(left)} free.\n{advice}"
            )


def size(arrays: Arrays) -> int:
    """Bytes of the arrays."""
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for shape, dtype in arrays.values())


def write(folder: pathlib.Path, key: dict, arrays: Arrays, blocks: Blocks) -> None:
    """Writes the arrays block by block. The folder appears when all of them are written, or not at all.

    Writing to a mapped file on a full disk would end the process. So the blocks are appended to plain files.

    Raises:
        OSError: the folder cannot be written.
    """
    with whole_folder(folder) as part:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((part / f"{name}.npy").open("wb")) for name in arrays}
            for name, (shape, dtype) in arrays.items():
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(files[name], header)
            for block in blocks:
                for name, value in block.items():
                    files[name].write(value.tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        digests = {f"{name}.npy": sha256(part / f"{name}.npy") for name in arrays}
        write_json(part / DESCRIPTION, {"key": key, "sha256": digests})


def read(folder: pathlib.Path, key: dict, arrays: Arrays, warn: Callable) -> dict[str, np.ndarray] | None:
    """Maps the arrays into memory.

    Args:
        folder: a folder that `write` wrote.
        key: everything that the numbers depend on, in JSON's types.
        arrays: name -> expected (shape, type).
        warn: a function that prints a line of text.

    Returns:
        name -> array. None if the folder does not exist; None and a warning if it has another key or is damaged.
    """
    file = folder / DESCRIPTION
    if not folder.exists():
        return None
    try:
        description = json.loads(file.read_text())
        if description["key"] != key:
            warn(f"{folder} is of another teacher or other views; it is computed again.")
            return None
        found = {}
        for name, (shape, dtype) in arrays.items():
            file = folder / f"{name}.npy"
            if sha256(file) != description["sha256"][file.name]:
                raise ValueError("its SHA-256 is not the one recorded")
            found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            if (found[name].shape, found[name].dtype) != (shape, dtype):
                raise ValueError(f"it holds {found[name].shape} {found[name].dtype}, not {shape} {dtype}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{file} is damaged or missing ({error}); it is computed again.")
        return None


def collect(arrays: Arrays, blocks: Blocks) -> dict[str, np.ndarray]:
    """The blocks as arrays in host memory."""
    rows = {name: [] for name in arrays}
    for block in blocks:
        for name, value in block.items():
            rows[name].append(value)
    return {name: np.concatenate(rows[name]).reshape(shape) for name, (shape, _) in arrays.items()}


def rounded(logits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The logits in another number format; raises `NonFiniteError` for one that is not finite there."""
    with np.errstate(over="ignore"):
        found = logits.astype(dtype)
    if not np.isfinite(found).all():
        raise NonFiniteError(
            f"A logit of the teacher ({np.abs(logits).max():.3g}) is not finite as {dtype}.\n"
            "If the logit itself is finite, store the bank with --config.teacher_bank_dtype=float32."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a bank is made.

    Attributes:
        views: K, the number of fixed views of each image; 0: given logits of the images as they are.
        dtype: type of the stored logits, "float16" or "float32".
        top_k: number of stored logits per image; 0: all.
        seed: the seed of the views.
    """

    views: int
    dtype: str
    top_k: int
    seed: int


@struct.dataclass
class DeviceBank:
    """A teacher bank: the teacher's logits for K views of every example, on the devices.

    Attributes:
        values: [K, N, C], or [K, N, k], the k highest; float16 or float32. Of one update's rows: [B, C] or [B, k].
        indices: [K, N, k] uint16 or int32, the classes of the k highest; None where all classes are stored.
        rest: [K, N], the logit of every other class; None where all classes are stored.
        classes: C; static.
    """

    values: jax.Array
    indices: jax.Array | None = None
    rest: jax.Array | None = None
    classes: int = struct.field(pytree_node=False, default=0)

    @staticmethod
    def arrays(views: int, examples: int, classes: int, dtype: str, top_k: int) -> Arrays:
        """Name -> (shape, type) of what a bank stores; `top_k` 0 stores all classes."""
        rows, stored = (views, examples), np.dtype(dtype)
        if not top_k:
            return {"values": ((*rows, classes), stored)}
        number = np.dtype("uint16" if classes <= 2**16 else "int32")
        return {"values": ((*rows, top_k), stored), "indices": ((*rows, top_k), number), "rest": (rows, stored)}

    @staticmethod
    def pack(logits: jax.Array, top_k: int) -> dict[str, jax.Array]:
        """What is stored of logits [B, C], not rounded yet."""
        if not top_k:
            return {"values": logits}
        values, indices = jax.lax.top_k(logits, top_k)
        others = logits.at[jnp.arange(len(logits))[:, None], indices].set(-jnp.inf)
        rest = jax.nn.logsumexp(others, axis=-1) - np.log(logits.shape[-1] - top_k).astype(np.float32)
        return {"values": values, "indices": indices, "rest": rest}

    def logits(self, view: jax.Array, index: jax.Array) -> jax.Array:
        """[B, C] float32, the logits of the examples `index` [B] in the views `view` [B].

        The one view of a bank of one view stands for every view.
        """
        own = self if self.values.ndim == 2 else self.rows(view, index)
        values = own.values.astype(jnp.float32)
        if own.indices is None:
            return values
        full = jnp.broadcast_to(own.rest.astype(jnp.float32)[:, None], (len(index), self.classes))
        return full.at[jnp.arange(len(index))[:, None], own.indices.astype(jnp.int32)].set(values)

    def rows(self, view, index) -> "DeviceBank":
        """The bank of the rows of one update alone; on the host it reads no others from the disk."""
        view = view if len(self.values) > 1 else view * 0
        return jax.tree.map(lambda x: x[view, index], self)
