"""A run is a folder: what is in it, who may write to it, and whether it is the same run."""

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
)  # keys that may differ between the processes of a run
FIXES = {  # what to do about a damaged file
    CONFIG: "Restore it, or choose another --train_path.",
    ENV: "Remove it: the same command writes it again.",
    SUMMARY: "Remove it: the same command writes it again, from the last checkpoint.",
}
CHECKS = {  # what is read of each file; any error means damage
    CONFIG: lambda content: {"data", "teacher_sha256"} <= content.keys(),
    ENV: lambda content: all(isinstance(past, dict) for past in content.get("continued_in", [])),
    SUMMARY: lambda content: (
        all({"top1", "epoch"} <= content[row].keys() for row in ("last", "best"))
        and {"parameters", "seconds", "steps"} <= content.keys()
    ),
}


class SaveError(UserError):
    """Something that could not be written. The earlier checkpoints are as they were."""


def warn(text: str) -> None:
    """One line on stderr; of several processes, the first one's."""
    if hosts.first():
        print(f"Warning: {text}", file=sys.stderr, flush=True)


def read_json(path: pathlib.Path) -> dict:
    """Raises `DamagedFileError` for a file that is no JSON object, or not one of this name."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not CHECKS[path.name](content):
            raise ValueError("something is missing or of another type")
    except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}).\n{FIXES[path.name]}") from None
    return content


@contextlib.contextmanager
def open_run(folder: pathlib.Path, identity: dict, report: tuple[str, ...] = ()):
    """Locks a run folder and checks that it holds this run; makes the folder where there is none.

    Args:
        folder: of the run.
        identity: the resolved config and the fingerprints of data and teacher, plain.
        report: what was read of the data, for `env.json`.

    Yields:
        The summary of a finished run; None for one that is not finished.

    Raises:
        UserError: the folder cannot be written, another process is writing to it, or it holds something else or a run
            with another config (with the differing keys). Nothing is written then.
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
        if grows:  # what the shorter training ended with is made again at the new end
            finished.unlink(missing_ok=True)
        summary = read_json(finished) if finished.exists() else None
        if summary is None:
            _write_environment(folder / ENV, {**environment.environment(), "data": list(report)})
        yield summary


def _write_environment(path: pathlib.Path, now: dict) -> None:
    """Writes `env.json`; a run that goes on under other conditions adds them under "continued_in"."""
    if path.exists():
        first = read_json(path)
        known = [first, *first.get("continued_in", [])]
        if any(all(past.get(key) == value for key, value in now.items()) for past in known):
            return
        now = {**first, "continued_in": [*known[1:], now]}
    write_json(path, now)
