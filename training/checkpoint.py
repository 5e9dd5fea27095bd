"""Checkpoints of a run, through Orbax: all that the next step depends on, in one folder per step.

Each checkpoint is self-contained: the state, the metrics since the last log line, the best weights so far, and (as
JSON) the position in `metrics.jsonl`. So the latest carries the best, and going back to an older one loses neither.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np

from registry import DamagedFileError

KEEP = 2


class Checkpoints:
    """The checkpoints of one run folder; the two latest are kept.

    Args:
        folder: the run folder; they lie in its `checkpoints/`.
    """

    def __init__(self, folder: pathlib.Path):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False)
        self.folder = folder / "checkpoints"
        self._manager = ocp.CheckpointManager(self.folder.resolve(), options=options)

    def save(self, step: int, tree: Any, notes: dict) -> None:
        """Writes a checkpoint, whole or not at all.

        Args:
            step: updates done; not saved twice.
            tree: a pytree of arrays.
            notes: JSON beside it.
        """
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        items = args.Composite(arrays=args.StandardSave(_flat(tree)), notes=args.JsonSave(notes))
        self._manager.save(step, args=items)

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        """The latest checkpoint, or None where there is none.

        Args:
            like: a pytree of arrays or shapes with the structure that was saved.

        Returns:
            (the tree, on the devices of `like`'s arrays or the first; the notes).

        Raises:
            DamagedFileError: it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        flat = {name: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for name, x in _flat(like).items()}
        try:
            found = self._manager.restore(
                step, args=args.Composite(arrays=args.StandardRestore(flat), notes=args.JsonRestore())
            )
        except Exception as error:  # Orbax and its storage raise many kinds for damaged files
            raise DamagedFileError(
                f"The checkpoint {self.folder / str(step)} cannot be read ({type(error).__name__}).\n"
                "Remove that folder to continue from the one before it."
            ) from None
        arrays = found["arrays"]
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in flat]), found["notes"]

    def close(self) -> None:
        self._manager.close()


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by their path, in tree order: a form that no library's idea of a container can change."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
