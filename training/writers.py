"""Where a run's numbers go: `metrics.jsonl`, TensorBoard, and one progress line."""

import json
import os
import pathlib
import sys
import time

from registry import DamagedFileError
from training.run_folder import METRICS


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, nothing that depends on the clock, so equal runs write equal files.

    Args:
        folder: the run folder.
        position: bytes to keep when a run continues; what was written after its checkpoint is written again.
        step: the step it continues from.
    """

    def __init__(self, folder: pathlib.Path, position: int, step: int):
        from tensorboardX import SummaryWriter

        self._file = (folder / METRICS).open("ab")
        if self._file.tell() < position:
            self._file.close()
            raise DamagedFileError(
                f"{folder / METRICS} is shorter than its checkpoint says ({position} bytes). Restore it, or remove "
                f"{folder / 'checkpoints'} to start anew."
            )
        self._file.truncate(position)
        self._file.seek(position)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None, write_to_disk=True)

    def write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Appends a row; `kind` is "train" (means since the last such row) or "test"."""
        row = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        self._file.write((json.dumps(row) + "\n").encode())
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def board(self, name: str, value: float, step: int) -> None:
        """To TensorBoard alone: what depends on the clock."""
        self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Puts the rows on the disk, before a checkpoint counts on them."""
        os.fsync(self._file.fileno())

    @property
    def position(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self._board.close()


class Progress:
    """One line with step, time left, images/s, each loss term and accuracy; redrawn on a terminal, appended elsewhere.

    Elsewhere a line appears every few seconds at most, and one at the end.
    """

    def __init__(self, name: str, total: int, out=None, interval: float = 5.0):
        self._name, self._total = name, total
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._interval = 0.2 if self._live else interval
        self._last = time.monotonic() if not self._live else 0.0
        self._width = 0

    def show(self, step: int, rate: float, batch_size: int, terms: dict[str, float], test: dict[str, float]) -> None:
        now = time.monotonic()
        done = step >= self._total
        if not done and now - self._last < self._interval:
            return
        self._last = now
        left = (self._total - step) * batch_size / rate if rate else 0
        shown = "  ".join(f"{k} {v:.3g}" if k != "top1" else f"top1 {v:.1f}" for k, v in terms.items())
        tested = "  ".join(f"{k} {v:.2f}" for k, v in test.items())
        line = f"{self._name}  {step}/{self._total}  ETA {_clock(left)}  {rate:,.0f} images/s  {shown}"
        line += f"  | test {tested}" if tested else ""
        if self._live:
            self._out.write("\r" + line.ljust(self._width) + ("\n" if done else ""))
            self._width = len(line)
        else:
            self._out.write(line + "\n")
        self._out.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
