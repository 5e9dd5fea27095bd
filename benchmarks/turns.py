"""Two checkouts of this library in turns: milliseconds of the distillation step and of its parts.

    git worktree add ../before HEAD~1
    python -m benchmarks.turns ../before . [--rounds 10]

Each side is what `benchmarks/step.py` of its checkout (7e75d77 or later) calls ours and times as it does, in a process
of its own; both have this interpreter's packages. The functions take turns, so that a machine's slow hour is slow for
both. Medians of the rounds, and the median of the rounds' ratios; below 1 the second is faster.
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys

import numpy as np

from benchmarks import compare
from benchmarks.step import positive
from registry import UserError

PARTS = ("step", "banked", "teacher", "student")

# What a side runs, with its own checkout's modules: names of functions come in, milliseconds of a call go out.
SERVE = """
import sys
answers, sys.stdout = sys.stdout, sys.stderr
from benchmarks.step import OURS, build, milliseconds
ours = build(OURS, int(sys.argv[1]), 0)
settle = getattr(ours, "settle", int)  # what followed a first update, from 7e75d77 to 553d5c8
for name in map(str.strip, sys.stdin):
    print(milliseconds(settle if name == "settle" else getattr(ours, name)), file=answers, flush=True)
"""


class Side:
    """A checkout's process. `milliseconds(part)` asks it and waits."""

    def __init__(self, folder: pathlib.Path, batch: int):
        if not (folder / "benchmarks" / "our_step.py").is_file():
            raise UserError(f"{folder} is not a checkout of this library with benchmarks/our_step.py.")
        command = [sys.executable, "-c", SERVE, str(batch)]
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def milliseconds(self, part: str) -> float:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and answers nothing
            print(part, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError("A side's process ended; what it said is above.")
        return float(answer)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def main(folders: list[pathlib.Path], rounds: int, batch: int) -> None:
    """Prints the table."""
    sides = [Side(folder, batch) for folder in folders]
    try:
        for part in (*PARTS, "settle"):  # compiles
            for side in sides:
                side.milliseconds(part)
        times = np.asarray([[[side.milliseconds(part) for side in sides] for part in PARTS] for _ in range(rounds)])
    finally:
        for side in sides:
            side.end()
    print("| | " + " | ".join(PARTS) + " |\n" + "|---" * (1 + len(PARTS)) + "|")
    for number, folder in enumerate(folders):
        print(f"| {folder} | " + " | ".join(f"{ms:.0f}" for ms in np.median(times[..., number], axis=0)) + " |")
    ratios = np.median(times[..., 1] / times[..., 0], axis=0)
    print("| median of the rounds' ratios | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=pathlib.Path, help="the two checkouts, the older one first")
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--batch", type=positive, default=64)
    compare.call(parser, main)
