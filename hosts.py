"""Several processes as one run: all make the same decisions, and only the first writes files.

Every process runs the same program on the same numbers. A compiled update spans all devices, and every process can
read its results. So processes can differ only in files, clocks and signals. A decision that depends on one of these
goes through a function of this file. All processes call that function at the same place of the program.
"""

import contextlib
import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from registry import UserError

MESSAGE = 8000  # bytes in which a process sends its error to the others
CHUNK = 2**26  # bytes of an array in one broadcast


class FailedElsewhere(UserError):
    """Another process of the run failed. The exit code is that process's."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the first one, which writes the files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def agreed():
    """Ends all processes if the block raises in any of them. The block must not wait for other processes.

    Raises:
        FailedElsewhere: in a process whose own block succeeded.
    """
    mine = None
    try:
        yield
    except Exception as error:
        if not several():
            raise
        mine = error
    if not several():
        return
    for number, message in enumerate(_gather(_error(mine))):
        if message:
            if mine is not None:
                raise mine
            raise FailedElsewhere(f"process {number} of {jax.process_count()}: {message['text']}", message["code"])


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Returns for each flag whether the flag is set in any process."""
    if not several():
        return tuple(map(bool, flags))
    return tuple(bool(x) for x in multihost_utils.process_allgather(np.asarray(flags, np.uint8)).any(axis=0))


def check_same(what: str, value: Any) -> None:
    """Raises `UserError` in all processes if a JSON value differs between them."""
    if several():
        digest = np.frombuffer(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest(), np.uint8)
        everyone = multihost_utils.process_allgather(digest)
        for number, theirs in enumerate(everyone):
            if (theirs != everyone[0]).any():
                raise UserError(f"Processes 0 and {number} do not have the same {what}. Start all with equal ones.")


def share(value: Any) -> Any:
    """Returns the first process's JSON value in all processes; the other processes' values are ignored."""
    if not several():
        return value
    content = json.dumps(value).encode() if first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
    content = np.frombuffer(content, np.uint8) if first() else np.zeros(size, np.uint8)
    return json.loads(_broadcast(content).tobytes())


def share_arrays(tree: Any, like: Any) -> Any:
    """Returns the first process's pytree in all processes, as NumPy arrays that are equal bit for bit.

    Args:
        tree: a pytree of arrays; read in the first process only.
        like: arrays or shapes with the structure of `tree`; needed in all processes.
    """
    if not several():
        return tree
    shapes, structure = jax.tree.flatten(like)
    leaves = jax.tree.leaves(tree) if first() else [np.zeros(x.shape, x.dtype) for x in shapes]
    # Arrays are sent as bytes. The broadcast adds the other processes' zeros, and -0.0 + 0.0 would become 0.0.
    content = [np.frombuffer(np.asarray(x).tobytes(), np.uint8) for x in leaves]
    shared = [_broadcast(x).view(s.dtype).reshape(s.shape) for x, s in zip(content, shapes, strict=True)]
    return jax.tree.unflatten(structure, shared)


def readable(tree: Any) -> Any:
    """Returns a pytree of arrays that every process can read. Each process fetches the rows of the others."""
    if not several():
        return tree

    def fetch(x):
        return x if x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree)


def finite_here(array: jax.Array) -> bool:
    """Whether the parts of an array that lie with this process are finite; no part is moved to another device."""
    return all(np.isfinite(np.asarray(shard.data)).all() for shard in array.addressable_shards)


def _broadcast(content: np.ndarray) -> np.ndarray:
    parts = [content[i : i + CHUNK] for i in range(0, content.size, CHUNK)]
    return np.concatenate([np.zeros(0, np.uint8), *map(multihost_utils.broadcast_one_to_all, parts)])


def _error(error: Exception | None) -> dict | None:
    if error is None:
        return None
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return {"text": text[: MESSAGE // 8], "code": getattr(error, "exit_code", 2 if isinstance(error, OSError) else 1)}


def _gather(value: Any) -> list:
    """Returns the short JSON value of every process."""
    content = json.dumps(value).encode().ljust(MESSAGE)
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(np.frombuffer(content, np.uint8))]
