"""Sends a run's numbers to an experiment tracker, from a process of its own.

    python -m studies.tracking runs/soft --to trackio

`--track wandb` or `--track trackio` of the training commands starts this process beside the run. It reads what the run
writes to `metrics.jsonl`, so a tracker that fails, hangs or is slow has no effect on the run. The command above sends a
run that is finished. `ROOT/tracking.json` says how far the sending is: a run that continues continues its curves.

`--to module:attribute` is a tracker of your own: `attribute(project, name, identity, config, folder)` returns an object
with `log(values: dict, step: int)` and `finish(summary: dict)`.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import time

import hosts
from configs import resolve
from configs.command import Command
from files import write_json
from registry import UserError, unknown
from studies import command
from training.run_folder import CONFIG, METRICS, SUMMARY, read_json, warn

POSITION = "tracking.json"
POLL = 1.0  # seconds between looks at the run
GRACE = 5.0  # seconds that a training waits for the last numbers to be sent
PROJECT = "knowledge-distillation"
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Wandb:
    """A run of Weights & Biases: online where its server answers and a key is there, else offline in the run folder."""

    def __init__(self, project: str, name: str, identity: str, config: dict, folder: pathlib.Path):
        wandb = _module("wandb")
        mode = os.environ.get("WANDB_MODE")
        if not mode:
            reached = wandb.api.api_key and _answers("api.wandb.ai")
            mode = "online" if reached else "offline"
        settings = {"id": identity, "resume": "allow", "mode": mode, "dir": str(folder)}
        self._run = wandb.init(project=project, name=name, config=config, **settings)

    def log(self, values: dict[str, float], step: int) -> None:
        """Sends the values of a step."""
        self._run.log(values, step=step)

    def finish(self, summary: dict) -> None:
        """Sends the results and ends the tracker's run."""
        self._run.summary.update(summary)
        self._run.finish()


class Trackio:
    """A run of trackio, in its database on this machine."""

    def __init__(self, project: str, name: str, identity: str, config: dict, folder: pathlib.Path):
        self._trackio = _module("trackio")
        self._trackio.init(project=project, name=f"{name}-{identity[:6]}", config=config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        """Sends the values of a step."""
        self._trackio.log(values, step=step)

    def finish(self, summary: dict) -> None:
        """Sends the results and ends the tracker's run."""
        self._trackio.log({f"summary/{key}": value for key, value in summary.items()})
        self._trackio.finish()


_late: list[subprocess.Popen] = []  # processes that go on after their training has ended
TRACKERS = {"wandb": Wandb, "trackio": Trackio}


def check(name: str) -> None:
    """Raises `UserError` for a tracker that is unknown or not installed."""
    if ":" in name:
        _own(name)
    elif name not in TRACKERS:
        raise unknown("tracker", name, [*TRACKERS, "none", "module:attribute"])
    elif importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name} needs a package that is not installed: pip install -e '.[track]'")


@contextlib.contextmanager
def followed(given: Command):
    """Sends a run's numbers to the tracker of `--track` while the block trains the run.

    Args:
        given: the command line of the training.

    Raises:
        UserError: an unknown tracker, or one that is not installed.
    """
    name = given.flags["track"]
    if name in ("", "none"):
        yield
        return
    check(name)
    if not hosts.first():
        yield
        return
    folder = given.recipe.get("train_path") or resolve.resolve(given.recipe, given.typed)[0]["train_path"]
    with _beside(name, folder):
        yield


@contextlib.contextmanager
def _beside(name: str, folder: str):
    """Runs the sending process beside the block."""
    line = [sys.executable, "-m", "studies.tracking", str(pathlib.Path(folder).expanduser().absolute()), "--to", name]
    path = os.pathsep.join(part for part in (str(ROOT), os.getcwd(), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [*line, "--beside"],
        env=environment,
        stdin=subprocess.PIPE,  # closed when the training ends, however it ends
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        if process.returncode is None:
            _late.append(process)
            warn(f"{name} has not taken all numbers yet; process {process.pid} goes on sending them.")
        elif process.returncode:
            warn(f"{name} failed; the run is whole. To send it again: python -m studies.tracking {folder} --to {name}")


def send(folder: pathlib.Path, tracker: str, running) -> None:
    """Sends the rows of a run, from where the last sending ended.

    Args:
        folder: the run folder.
        tracker: as in `followed`.
        running: function that says whether the run may still write rows; it is asked before the rows are read.

    Raises:
        UserError: no run.
    """
    while running() and not (folder / CONFIG).exists():
        time.sleep(POLL)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no run.")
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    place = folder / POSITION
    sent = json.loads(place.read_text()) if place.exists() else {}  # file -> bytes that the tracker has
    kind = _own(tracker) if ":" in tracker else TRACKERS[tracker]
    config = {key: value for key, value in read_json(folder / CONFIG).items() if value not in ("", None, {})}
    run = kind(PROJECT, folder.name, identity, config, folder)
    going = True
    while going:
        going = running()
        for step, values in _rows(folder, sent):
            run.log(values, step)
        write_json(place, sent)
        if going:
            time.sleep(POLL)
    done = folder / SUMMARY
    run.finish(_flat(read_json(done)) if done.exists() else {})


def _rows(folder: pathlib.Path, sent: dict[str, int]) -> list[tuple[int, dict[str, float]]]:
    """Returns (step, values) of the rows that are not sent yet, by step; `sent` moves on. A seed's names have its name.

    A run that continues cuts its log and writes the same rows again: they count as sent.
    """
    found: dict[int, dict[str, float]] = {}
    for log in sorted([*folder.glob(METRICS), *folder.glob(f"s*/{METRICS}")]):
        name = str(log.relative_to(folder))
        seed = "" if log.parent == folder else f"{log.parent.name}/"
        with log.open("rb") as file:
            file.seek(sent.get(name, 0))
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        sent[name] = sent.get(name, 0) + len(whole)
        for row in map(json.loads, whole.splitlines()):
            kind, step = row.pop("kind"), row.pop("step")
            found.setdefault(step, {}).update({f"{seed}{kind}/{key}": value for key, value in row.items()})
    return sorted(found.items())


def _flat(summary: dict, before: str = "") -> dict[str, float]:
    """Returns the numbers of a nested dictionary, with "/" between the names."""
    found = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{before}{key}/"))
        elif isinstance(value, (int, float)):
            found[before + key] = value
    return found


def _module(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed: pip install -e '.[track]'") from None


def _own(name: str):
    """Returns the attribute of "module:attribute"."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--track {name}: {error}.") from None


def _answers(host: str) -> bool:
    """Whether a host takes a connection within two seconds."""
    try:
        socket.create_connection((host, 443), timeout=2).close()
    except OSError:
        return False
    return True


def main(run: pathlib.Path, to: str, beside: bool = False) -> None:
    """Sends a run. With `beside` the run is being trained by the process at the other end of this one's input."""
    check(to)
    send(run, to, lambda: beside and not select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("run", type=pathlib.Path, help="the run folder")
    parser.add_argument("--to", required=True, help=f"{', '.join(TRACKERS)}, or module:attribute")
    parser.add_argument("--beside", action="store_true", help="set by the training commands: until the input is closed")
    command.call(parser, main)
