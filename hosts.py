"""Several processes as one run: they agree on everything, and the first one alone writes.

Every process runs the same program on the same numbers: a compiled update spans all devices, and its results are
readable everywhere. So processes can differ only in files, clocks and signals. Whatever depends on one of these goes
through a function of this file, which all processes call at the same place.
"""

import contextlib
import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from registry import UserError

MESSAGE = 2000  # bytes of an error that the others get to see
CHUNK = 2**26  # bytes of an array that are shared at a time


class FailedElsewhere(UserError):
    """Another process of the run could not go on; with its exit code."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def agreed():
    """What is done inside succeeds in all processes, or ends all of them; nothing inside may wait for the others.

    Raises:
        FailedElsewhere: in the processes in which it did succeed.
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
    """Each flag: whether it is set in any process."""
    if not several():
        return tuple(map(bool, flags))
    return tuple(bool(x) for x in multihost_utils.process_allgather(np.asarray(flags, np.uint8)).any(axis=0))


def check_same(what: str, value: Any) -> None:
    """Raises `UserError` in all processes unless a JSON value is the same in all of them."""
    if several():
        digest = np.frombuffer(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest(), np.uint8)
        everyone = multihost_utils.process_allgather(digest)
        for number, theirs in enumerate(everyone):
            if (theirs != everyone[0]).any():
                raise UserError(f"Processes 0 and {number} do not have the same {what}. Start all with the same ones.")


def share(value: Any) -> Any:
    """A JSON value of the first process, in all; the others' own is ignored."""
    if not several():
        return value
    content = json.dumps(value).encode() if first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
    content = np.frombuffer(content, np.uint8) if first() else np.zeros(size, np.uint8)
    return json.loads(_broadcast(content).tobytes())


def share_arrays(tree: Any, like: Any) -> Any:
    """A pytree of arrays of the first process, in all: NumPy arrays, to the last bit.

    Args:
        tree: ignored but in the first process.
        like: arrays or shapes with its structure, in all processes.
    """
    if not several():
        return tree
    shapes, structure = jax.tree.flatten(like)
    leaves = jax.tree.leaves(tree) if first() else [np.zeros(x.shape, x.dtype) for x in shapes]
    # As bytes: what is sent is added up with the others' zeros, and -0.0 + 0.0 is 0.0.
    content = [np.frombuffer(np.asarray(x).tobytes(), np.uint8) for x in leaves]
    shared = [_broadcast(x).view(s.dtype).reshape(s.shape) for x, s in zip(content, shapes, strict=True)]
    return jax.tree.unflatten(structure, shared)


def readable(tree: Any) -> Any:
    """A pytree of arrays that every process can read; rows that lie with other processes are fetched, in all."""
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
    """A short JSON value of every process."""
    content = json.dumps(value).encode().ljust(MESSAGE)
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(np.frombuffer(content, np.uint8))]
