"""Checkpoints of a run: one folder per step with all that the next update depends on, under checksums.

    checkpoints/<step>/MANIFEST   arrays/...   notes.json   logs/metrics.jsonl

A checkpoint is self-contained: the arrays, notes as JSON, and a copy of the logs up to the step. Orbax writes the
arrays so that any number of devices can continue. Orbax does not notice a flipped bit, so the `MANIFEST` has size and
SHA-256 of every file, and a SHA-256 of itself.

A thread writes a checkpoint as `<step>.part`, the manifest last, and renames the folder when all of it is on the disk.
If a kill interrupts the save, the `.part` is ignored. An older checkpoint is removed when two newer ones are whole.
`<step>.damaged` is a checkpoint that was found damaged; the next save removes it.

Several processes may have no disk in common. Then the first process fetches all arrays and writes them alone.
"""

import concurrent.futures
import errno
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from files import PART, damage, difference, free, size_text, sync, write_manifest, write_whole
from registry import DamagedFileError
from training.run_folder import SaveError, warn

KEEP = 2
ARRAYS, NOTES, LOGS = "arrays", "notes.json", "logs"
ASIDE = ".damaged"
PER_ARRAY, FIXED = 1024, 2**16  # upper limits of Orbax's own bytes, for each array and for the rest


class Checkpoints:
    """The checkpoints of one run folder; the two latest are kept. Only the first process makes this object.

    Args:
        run: the run folder; the checkpoints are in its `checkpoints/`. Left-overs of a killed save are removed.
    """

    def __init__(self, run: pathlib.Path):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self.run, self.folder = run, run / "checkpoints"
        self._ocp = ocp
        alone = {}
        if jax.process_count() > 1:  # only the first is here: Orbax must not wait for the others
            options = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="checkpoints")
            alone = {"multiprocessing_options": options}
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler(**alone), **alone)
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future | None = None
        self._whole: set[int] = set()  # written or checked by this process
        for leftover in self.folder.glob(f"*{PART}"):
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, whole or damaged, in rising order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(self, step: int, tree: Any, notes: dict, logs: dict[str, int], wait: bool = True) -> None:
        """Writes a checkpoint, whole or not at all, then removes older and damaged ones.

        Args:
            step: updates done. A step that this process has saved or restored is not saved again.
            tree: a pytree of arrays. The caller must not change or donate them before the save has ended.
            notes: JSON beside the arrays.
            logs: file of the run folder -> number of its first bytes that belong to this checkpoint.
            wait: wait until the save has ended. Otherwise the next `save` or `wait` raises this save's error.

        Raises:
            SaveError: the checkpoint cannot be written. The line has the folder, the reason and the space needed.
        """
        self.wait()
        if step in self._whole:
            return
        heads = {name: _head(self.run / name, length) for name, length in logs.items()}
        text = json.dumps(notes) + "\n"  # now, because the caller changes the notes during the save
        self._writing = self._thread.submit(self._write, step, _flat(tree), text, heads)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for the save that is under way; raises its `SaveError`."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, step: int, arrays: dict[str, Any], notes: str, logs: dict[str, bytes]) -> None:
        need = sum(x.nbytes + PER_ARRAY for x in arrays.values()) + sum(map(len, logs.values())) + FIXED
        part, path = self.folder / f"{step}{PART}", self.folder / str(step)
        try:
            part.mkdir(parents=True, exist_ok=True)
            _reserve(part / ARRAYS, need)
            self._orbax.save((part / ARRAYS).resolve(), args=self._ocp.args.StandardSave(arrays))
            (part / NOTES).write_text(notes)
            for name, content in logs.items():
                (part / LOGS / name).parent.mkdir(parents=True, exist_ok=True)
                (part / LOGS / name).write_bytes(content)
            write_manifest(part)
            if path.exists():  # it is damaged: the run would have continued from a whole one
                _move(path, self.folder / f"{step}{ASIDE}")
            part.replace(path)
            sync(self.folder)
        except (OSError, ValueError) as error:  # ValueError: Orbax's storage cannot write
            shutil.rmtree(part, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0][:200]
            raise SaveError(
                f"Cannot save step {step} in {self.folder}: {reason}; "
                f"needed {size_text(need)}, free {size_text(free(self.run))}."
            ) from None
        self._whole.add(step)
        self._remove_old()

    def _remove_old(self) -> None:
        old = [self.folder / str(step) for step in self.steps()[:-KEEP]]
        for path in old + list(self.folder.glob(f"*{ASIDE}")):
            leaving = path.with_name(path.name + PART)  # half removed, a folder must not look damaged
            try:
                _move(path, leaving)
            except OSError as error:
                warn(f"cannot remove {path}: {error.strerror}.")
            shutil.rmtree(leaving, ignore_errors=True)

    def restore(self, like: Any, logs: Iterable[str] = ()) -> tuple[Any, dict] | None:
        """Reads the latest whole checkpoint.

        Newer, damaged checkpoints are reported on stderr and moved aside, so that their steps can be saved again. A log
        that does not begin with the checkpoint's copy is replaced by the copy.

        Args:
            like: a pytree of arrays or shapes with the structure that was saved.
            logs: files of the run folder that have rows only if a checkpoint was saved before.

        Returns:
            (tree, notes); None if nothing was ever saved.

        Raises:
            DamagedFileError: no checkpoint is whole, or all are missing although a log has rows. Nothing is changed.
        """
        damaged = {}
        for step in reversed(self.steps()):
            problem = damage(self.folder / str(step))
            if problem is None:
                break
            damaged[step] = problem
        else:
            self._none_whole(damaged, logs)
            return None
        found = self.folder / str(step)
        arrays, notes = self.read(step), json.loads((found / NOTES).read_text())
        tree = _shaped(arrays, like, found)
        for bad, problem in damaged.items():
            warn(f"{problem}; going back to the checkpoint of step {step}.")
            _move(self.folder / str(bad), self.folder / f"{bad}{ASIDE}")
        for copy in sorted(path for path in (found / LOGS).rglob("*") if path.is_file()):
            self._mend(copy, self.run / copy.relative_to(found / LOGS), step)
        self._whole.add(step)
        return tree, notes

    def _none_whole(self, damaged: dict[int, str], logs: Iterable[str]) -> None:
        aside = [str(path) for path in self.folder.glob(f"*{ASIDE}")]
        rows = [self.run / name for name in logs if (self.run / name).exists() and (self.run / name).stat().st_size]
        if damaged or aside:
            what = f"No checkpoint of this run is whole: {'; '.join([*damaged.values(), *aside])}."
        elif rows:
            what = f"{self.folder} has no checkpoint, but {rows[0]} has rows, so one is missing."
        else:
            return
        raise DamagedFileError(f"{what}\nRestore the files, or start anew with another --train_path.")

    def _mend(self, copy: pathlib.Path, log: pathlib.Path, step: int) -> None:
        """Writes a log again, with a warning, if it does not begin with the checkpoint's copy."""
        saved = copy.read_bytes()
        now = _head(log, len(saved)) if log.exists() else None
        if now != saved:
            reason = "missing" if now is None else difference(len(now), len(saved))
            warn(f"{log} is damaged ({reason}); written again as it was at step {step}.")
            log.parent.mkdir(exist_ok=True)
            write_whole(log, saved)

    def read(self, step: int) -> dict[str, np.ndarray]:
        """Returns path in the tree -> array of a checkpoint, in host memory: the number of devices may change."""
        path = self.folder / str(step)
        try:
            arrays = (path / ARRAYS).resolve()
            found = self._orbax.metadata(arrays)
            found = getattr(found, "item_metadata", found)
            like = {name: np.empty(x.shape, x.dtype) for name, x in getattr(found, "tree", found).items()}
            return self._orbax.restore(arrays, args=self._ocp.args.StandardRestore(like))
        except Exception as error:  # Orbax and its storage raise many kinds of errors
            raise DamagedFileError(
                f"The checkpoint {path} is undamaged, but cannot be read ({type(error).__name__}).\n"
                "Use the versions with which it was written: env.json has them."
            ) from None

    def close(self) -> None:
        """Waits for the save that is under way, ignores its error, and closes Orbax."""
        self._thread.shutdown()
        self._orbax.close()


def _reserve(place: pathlib.Path, size: int) -> None:
    """Raises `OSError` if `size` bytes cannot be written. Orbax's own error is hundreds of lines long."""
    with place.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # storage that cannot reserve
                raise
        finally:
            place.unlink()


def _flat(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf, in tree order. This form does not depend on how a library treats containers."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _shaped(arrays: dict[str, np.ndarray], like: Any, path: pathlib.Path) -> Any:
    """Returns the arrays as a tree like `like`; raises `DamagedFileError` if names, shapes or types differ."""

    def facts(flat):
        return {name: (tuple(np.shape(x)), str(x.dtype)) for name, x in flat.items()}

    want, have = facts(_flat(like)), facts(arrays)
    different = [name for name in {**want, **have} if want.get(name) != have.get(name)]
    if different:
        name = different[0]
        raise DamagedFileError(
            f"{path} was written by other code: {name} (of {len(different)}) is {have.get(name, 'missing')} there, "
            f"{want.get(name, 'missing')} here.\nContinue with the commit in env.json, or choose another --train_path."
        )
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(arrays[name]) for name in want])


def _head(path: pathlib.Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _move(path: pathlib.Path, to: pathlib.Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    path.replace(to)
