"""Training in a process of its own, for tests that kill it."""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 240.0  # seconds until a process counts as stuck
RESULTS = ("metrics.jsonl", "last/weights.safetensors", "best/weights.safetensors")


def start(folder, cache, flags):
    """The command line, running."""
    return subprocess.Popen(
        [sys.executable, "train_w_kd.py", *flags, "--train_path", str(folder)],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, cache, flags):
    """Runs it to its end; returns what it printed."""
    process = start(folder, cache, flags)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return output


def reached(folder):
    """The newest checkpoint's step; -1 where there is none."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=-1)


def saving(folder):
    """Whether a checkpoint is being written at this moment."""
    return any((folder / "checkpoints").glob("*.part"))


def wait_for(process, condition):
    """Returns as soon as `condition()` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "stuck"
        time.sleep(0.001)


def contents(folder):
    """What a finished run must have bit for bit: log, weights, and every file's arrays of the last checkpoint."""
    from training.checkpoint import Checkpoints

    found = {name: (folder / name).read_bytes() for name in RESULTS}
    checkpoints = Checkpoints(folder)
    arrays = checkpoints.read(checkpoints.steps()[-1])
    checkpoints.close()
    return found | {name: value.tobytes() for name, value in arrays.items()}
