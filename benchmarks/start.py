"""Seconds from the command to the first logged update: a first start, a later start, and a start that compiles.

    python -m benchmarks.start [--repeats 3] [--data_dir FOLDER_WITH_CIFAR10]

The runs are SoftLogits at batch 64: the networks of `make demo` on Digits and, if CIFAR-10 is prepared, ResNet-56 to
ResNet-20. The teachers have random weights, which take as long as trained ones. Each run is ended as soon as its first
log line appears. The numbers are medians.

- cold: the user's cache folder is empty. The run compiles the programs and decodes CIFAR-10's images.
- warm: programs and decoded images are in the cache folder.
- programs anew: only the decoded images are in the cache folder, as in a first run of another method or network.
"""

import os
import pathlib
import pty
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import data
import models
import pretrained
from registry import UserError
from studies import command

FIRST_UPDATE = re.compile(rb"\b1/\d+ +ETA")
ROOT = pathlib.Path(__file__).resolve().parent.parent


def write_teacher(folder: pathlib.Path, arch: str, dataset: data.Dataset) -> None:
    """Writes random weights that any run on the dataset accepts as a teacher."""
    images = np.zeros((1, *dataset.image_shape), np.float32)
    variables = jax.jit(models.create(arch, dataset.num_classes).init)(jax.random.key(0), images)
    info = {"arch": arch, **dataset.info, "test_top1": None}
    pretrained.save(folder, jax.device_get(variables), info)


def seconds_to_first_update(flags: list[str], cache: pathlib.Path) -> float:
    """Returns the seconds of one command. The command has a terminal, on which it shows its first update at once."""
    with tempfile.TemporaryDirectory() as run:
        terminal, its_end = pty.openpty()
        command = [sys.executable, "train_w_kd.py", *flags, "--log_every", "1", "--train_path", f"{run}/run"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": ""}
        start, shown = time.monotonic(), b""
        process = subprocess.Popen(command, cwd=ROOT, stdout=its_end, stderr=its_end, env=environment)
        os.close(its_end)
        try:
            while not FIRST_UPDATE.search(shown):
                shown += os.read(terminal, 4096)
            return time.monotonic() - start
        except OSError:  # the command has ended
            raise UserError(f"{' '.join(command)} ended before its first update:\n{shown.decode()}") from None
        finally:
            process.kill()
            process.wait()
            os.close(terminal)


def main(repeats: int, data_dir: str) -> None:
    """Prints the table."""
    cases = [("of `make demo`: ResNet-20 to ResNet-8 on Digits", "ResNet20", "ResNet8", "Digits", [])]
    if data_dir:
        own = ["--data_dir", data_dir]
        cases.insert(0, ("ResNet-56 to ResNet-20 on CIFAR-10", "ResNet56", "ResNet20", "CIFAR10", own))
    else:
        print("No --data_dir: CIFAR-10 is left out.")
    print("\n| | cold | warm | programs anew |\n|---|---|---|---|")
    for label, teacher, student, name, own in cases:
        with tempfile.TemporaryDirectory() as folder:
            weights = pathlib.Path(folder) / "teacher"
            write_teacher(weights, teacher, data.load(name, data_dir if own else ""))
            flags = ["--distiller", "SoftLogits", "--teacher_param", str(weights), "--student_arch", student]
            flags += ["--dataset", name, "--batch_size", "64", *own]
            times = {"cold": [], "warm": [], "programs anew": []}
            for number in range(repeats):
                cache = pathlib.Path(folder) / f"cache{number}"
                for kind, seconds in times.items():
                    if kind == "programs anew":
                        shutil.rmtree(cache / "kd-cookbook" / "xla")
                    seconds.append(seconds_to_first_update(flags, cache))
                    print(f"{label}, {kind}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
        print(f"| {label} | " + " | ".join(f"{statistics.median(s):.1f} s" for s in times.values()) + " |", flush=True)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--repeats", type=command.positive, default=3)
    parser.add_argument("--data_dir", default="", help="where tensorflow-datasets keeps CIFAR-10")
    command.call(parser, main)
