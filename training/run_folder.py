"""The folder of a run: its files, its lock, and the check that it holds the same run."""

import contextlib
import json
import pathlib
import sys

import hosts
from configs import environment, resolve
from files import LOCK, PART, lock, refuse_second, write_json
from registry import DamagedFileError, UserError

CONFIG, ENV, METRICS, SUMMARY = "config.json", "env.json", "metrics.jsonl", "summary.json"
EPOCHS = "epochs"  # the folder of weights that `keep_epochs` keeps
OWN = (
    "train_path",
    "data_dir",
    "teacher_param",
    "teacher_logits",
    "init_param",
    "loading_threads",
)  # may differ between processes
FIXES = {  # what to do about a damaged file
    CONFIG: "Restore it, or choose another --train_path.",
    ENV: "Remove it: the same command writes it again.",
    SUMMARY: "Remove it: the same command writes it again, from the last checkpoint.",
}
CHECKS = {  # what each file must have; False or an error means damage
    CONFIG: lambda content: {"data", "teacher_sha256"} <= content.keys(),
    ENV: lambda content: all(isinstance(past, dict) for past in content.get("continued_in", [])),
    SUMMARY: lambda content: (
        all("epoch" in content[row] for row in ("last", "best"))
        and {"parameters", "seconds", "steps"} <= content.keys()
    ),
}


class SaveError(UserError):
    """A file could not be written. The earlier checkpoints are unchanged."""


def warn(text: str) -> None:
    """Prints one line to stderr, in the first process only."""
    if hosts.first():
        print(f"Warning: {text}", file=sys.stderr, flush=True)


def read_json(path: pathlib.Path) -> dict:
    """Reads a JSON object; raises `DamagedFileError` if the file is no JSON object or lacks what it must have."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not CHECKS[path.name](content):
            raise ValueError("something is missing or of another type")
    except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}).\n{FIXES[path.name]}") from None
    return content


def summary_row(row: dict) -> dict:
    """A row of `Replica.tests` as `summary.json` has it: the test split's metrics, and another split's as "val/..."."""
    chosen = {f"val/{key}": value for key, value in row.items() if key not in ("epoch", "test")}
    return {"epoch": row["epoch"], **row["test"], **chosen} if "test" in row else row


@contextlib.contextmanager
def open_run(folder: pathlib.Path, identity: dict, report: dict | None = None):
    """Locks a run folder and checks that it holds this run; makes the folder if it does not exist.

    Args:
        folder: the run's folder.
        identity: the resolved config and the fingerprints of data and weights, as JSON.
        report: more for `env.json`: what was read of the data.

    Yields:
        The summary if the run is finished, else None.

    Raises:
        UserError: the folder cannot be written, another process writes to it, it holds a run with another config (the
            message has the differing keys), or it holds something else. Nothing is written then.
    """
    known, finished = folder / CONFIG, folder / SUMMARY
    refuse_second(folder)
    grows = False
    if known.exists():
        before = read_json(known)
        different, grows = resolve.differences(before, identity), resolve.grows(before, identity)
        if different:
            raise UserError(
                f"{folder} holds a run with another config: {'; '.join(different)}.\n{resolve.advice(before, identity)}"
            )
    elif (folder / METRICS).exists() or (folder / "checkpoints").exists():
        raise DamagedFileError(f"{known} is missing, but the rest of a run is there.\n{FIXES[CONFIG]}")
    elif folder.is_dir() and any(p.name not in (LOCK, CONFIG + PART) for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run. Choose another --train_path.")
    with lock(folder):
        write_json(known, identity)
        if grows:  # the shorter training's summary is replaced at the new end
            finished.unlink(missing_ok=True)
        summary = read_json(finished) if finished.exists() else None
        if summary is None:
            _write_environment(folder / ENV, {**environment.environment(), **(report or {})})
        yield summary


def _write_environment(path: pathlib.Path, now: dict) -> None:
    """Writes `env.json`. A run that continues in another environment adds this one under "continued_in"."""
    if path.exists():
        first = read_json(path)
        known = [first, *first.get("continued_in", [])]
        if any(all(past.get(key) == value for key, value in now.items()) for past in known):
            return
        now = {**first, "continued_in": [*known[1:], now]}
    write_json(path, now)
