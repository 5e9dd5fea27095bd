"""Writers of a run's numbers: `metrics.jsonl`, TensorBoard and one progress line."""

import contextlib
import json
import os
import pathlib
import platform
import sys
import time

from registry import DamagedFileError
from training.run_folder import METRICS, SaveError, warn


class MetricsLog:
    """Writes `metrics.jsonl`: one JSON object per line. No value depends on the clock, so equal runs write equal files.

    Args:
        folder: the run folder.
        position: bytes to keep when a run continues; later rows are cut off, and the run writes them again.
        step: the step that the run continues from.
    """

    def __init__(self, folder: pathlib.Path, position: int, step: int):
        self._file = (folder / METRICS).open("ab", buffering=0)
        self._waiting = b""  # rows that could not be written yet
        if self._file.tell() < position:
            self._file.close()
            raise DamagedFileError(
                f"{folder / METRICS} is shorter than its checkpoint says ({position} bytes). Restore it, or remove "
                f"{folder / 'checkpoints'} to start anew."
            )
        self._file.truncate(position)
        self._file.seek(position)
        self._board = Board(folder / "tensorboard", step)

    def write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Appends a row; `kind` is "train" (means since the last such row), or "val" or "test", the split of a test."""
        row = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        warned = bool(self._waiting)
        self._waiting += (json.dumps(row) + "\n").encode()
        try:
            self._write_waiting()
        except OSError as error:
            if not warned:
                warn(f"cannot write to {self._file.name}: {error.strerror}. The rows are kept and written later.")
        for name, value in values.items():
            self._board.add(f"{kind}/{name}", value, step)

    def _write_waiting(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def board(self, name: str, value: float, step: int) -> None:
        """Writes a value that depends on the clock, to TensorBoard only."""
        self._board.add(name, value, step)

    def sync(self) -> None:
        """Forces the rows to the disk before a checkpoint refers to them; raises `SaveError`."""
        try:
            self._write_waiting()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SaveError(
                f"Cannot write {len(self._waiting):,} bytes to {self._file.name}: {error.strerror}; nothing was saved."
            ) from None

    @property
    def position(self) -> int:
        """Bytes of all rows so far."""
        return self._file.tell() + len(self._waiting)

    def close(self) -> None:
        self._file.close()
        self._board.close()


class Board:
    """Writes TensorBoard's scalars. `metrics.jsonl` has them too, so a storage error ends the board and not the run.

    Args:
        folder: made if needed; every process writes its own file.
        step: the step that the run continues from. TensorBoard hides later points of earlier processes.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        with _without_torch():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, None
        file = folder / f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"

        def begin():
            folder.mkdir(exist_ok=True)
            self._writer = RecordWriter(str(file))
            self._write(file_version="brain.Event:2")
            if step:
                self._write(step=step, session_log=SessionLog(status=SessionLog.START))

        self._try(begin)

    def add(self, name: str, value: float, step: int) -> None:
        """Adds a point to the curve `name`."""
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value)])
        if self._writer:
            self._try(lambda: self._write(step=step, summary=summary))

    def close(self) -> None:
        if self._writer:
            self._try(self._writer.close)

    def _write(self, **event) -> None:
        self._writer.write(self._event(wall_time=time.time(), **event).SerializeToString())
        self._writer.flush()

    def _try(self, write) -> None:
        try:
            write()
        except OSError as error:
            writer, self._writer = self._writer, None
            if writer:
                with contextlib.suppress(OSError):
                    writer.close()
            warn(f"cannot write TensorBoard's file: {error.strerror}. The file ends here.")


@contextlib.contextmanager
def _without_torch():
    """Hides PyTorch: tensorboardX would import PyTorch for the name of a type, two seconds of every start."""
    absent = sys.modules.setdefault("torch", None) is None  # None makes the import fail, which tensorboardX allows
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


class Clock:
    """Measures the seconds of training, without tests, saves, and the first call of a process, which compiles.

    Args:
        begun: `time.monotonic()` at the start of the command.
        examples: images in an update, of all seeds.
        step: updates done by earlier processes.
        seconds: seconds that those updates took.
    """

    def __init__(self, begun: float, examples: int, step: int, seconds: float):
        self.examples, self.seconds = examples, seconds
        self._begun, self._to_first, self._own, self._steps = begun, 0.0, 0.0, 0
        self.resume(step)

    @property
    def first(self) -> bool:
        """Whether the first call has not ended yet."""
        return not self._to_first

    def pause(self, step: int) -> None:
        """Stops the clock; the updates until `step` are done."""
        now = time.monotonic()
        if self.first:
            self._to_first = now - self._begun
            return
        self.seconds, self._own = self.seconds + now - self._mark, self._own + now - self._mark
        self._steps += step - self._step

    def resume(self, step: int) -> None:
        """Starts the clock; the updates after `step` begin."""
        self._mark, self._step = time.monotonic(), step

    @property
    def rate(self) -> float:
        """Images per second."""
        return self._steps * self.examples / self._own if self._own else 0.0

    def summary(self, step: int) -> dict:
        """Returns the entries of `summary.json` about the speed."""
        return {
            "steps": step,
            "seconds": round(self.seconds, 2),
            "seconds_to_first_step": round(self._to_first, 2),
            "images_per_second": round(self.rate, 1),
        }


class Progress:
    """Shows one line with step, time left, images/s, each loss term and accuracy.

    A terminal redraws the line. Elsewhere a new line is written at most every few seconds, and at the end.
    """

    def __init__(self, name: str, total: int, quiet: bool = False, out=None, interval: float = 5.0):
        self._name, self._total, self._quiet = name, total, quiet
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._interval = 0.2 if self._live else interval
        self._last = time.monotonic() if not self._live else 0.0
        self._width = 0

    def show(self, step: int, clock: Clock, terms: dict[str, float], test: dict[str, float]) -> None:
        """Shows the line after `step` updates: the means of the `terms`, and the last and best of the tests."""
        now, rate, done = time.monotonic(), clock.rate, step >= self._total
        if self._quiet or (not done and now - self._last < self._interval):
            return
        self._last = now
        left = (self._total - step) * clock.examples / rate if rate else 0
        shown = "  ".join(f"{k} {v:.3g}" if k != "top1" else f"top1 {v:.1f}" for k, v in terms.items())
        tested = "  ".join(f"{k} {v:.2f}" for k, v in test.items())
        line = f"{self._name}  {step}/{self._total}  ETA {_clock(left)}  {rate:,.0f} images/s  {shown}"
        line += f"  | {tested}" if tested else ""
        if self._live:
            self._out.write("\r" + line.ljust(self._width))
            self._width = len(line)
            if done:
                self.end()
        else:
            self._out.write(line + "\n")
        self._out.flush()

    def end(self) -> None:
        """Ends the line, so that later output starts on a new line."""
        if self._width:
            self._out.write("\n")
            self._out.flush()
            self._width = 0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
