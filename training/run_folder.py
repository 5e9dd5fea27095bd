"""A run is a folder: what is in it, who may write to it, and whether it is the same run."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

from registry import DamagedFileError, UserError
from training import config as configs
from training import lock

CONFIG, ENV, METRICS, SUMMARY = "config.json", "env.json", "metrics.jsonl", "summary.json"
EPOCHS = "epochs"  # the folder of weights that `keep_epochs` keeps
PART = ".part"  # ends the name of what is not written to its end
FIXES = {  # what to do about one of them that is damaged
    CONFIG: "Restore it, or choose another --train_path.",
    ENV: "Remove it: the same command writes it again.",
    SUMMARY: "Remove it: the same command writes it again, from the last checkpoint.",
}


CHECKS = {  # what is read of each; any error is a "no"
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
    from training import hosts

    if hosts.first():
        print(f"Warning: {text}", file=sys.stderr, flush=True)


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a file whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    part = path.with_name(path.name + PART)
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


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
def open_run(path: str, config: dict):
    """Locks a run folder and checks that it is this run's; makes it when it is not there.

    Args:
        path: the folder.
        config: the resolved config, plain.

    Yields:
        The folder's `pathlib.Path`.

    Raises:
        UserError: the folder cannot be written, another process is writing to it, it holds something else, or a run
            with another config (with the differing keys). Nothing is written then.
    """
    folder = pathlib.Path(path).expanduser()
    known = folder / CONFIG
    if known.exists():
        different = configs.differences(read_json(known), config)
        if different:
            raise UserError(
                f"{folder} holds a run with another config: {'; '.join(different)}.\n"
                "Use the same config to resume it, or another --train_path."
            )
    elif (folder / METRICS).exists() or (folder / "checkpoints").exists():
        raise DamagedFileError(f"{known} is missing, but the rest of a run is there.\n{FIXES[CONFIG]}")
    elif folder.is_dir() and any(p.name not in (lock.FILE, CONFIG + PART) for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run. Choose another --train_path.")
    with lock.acquire(folder):
        write_json(folder / CONFIG, config)
        yield folder


def write_environment(folder: pathlib.Path) -> None:
    """Writes `env.json`; a run that goes on under other conditions adds them under "continued_in"."""
    path, now = folder / ENV, environment()
    if path.exists():
        first = read_json(path)
        known = [first, *first.get("continued_in", [])]
        if any(all(past.get(key) == value for key, value in now.items()) for past in known):
            return
        now = {**first, "continued_in": [*known[1:], now]}
    write_json(path, now)


def environment() -> dict:
    """What a result depends on besides the config: versions, devices, commit, command."""
    import jax

    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
    root = pathlib.Path(__file__).parent.parent

    def git(*arguments):
        try:
            result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5)
            return result.stdout.strip() if result.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired):
            return None

    changes = git("status", "--porcelain")
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def command_line() -> str:
    """The command as it was typed, up to the interpreter's path."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.basename(sys.argv[0])]
    return shlex.join(["python", *program, *sys.argv[1:]])
