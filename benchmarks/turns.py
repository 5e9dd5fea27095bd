"""Compares two checkouts of this library: milliseconds of the distillation step and of its parts.

    git worktree add ../before HEAD~1
    python -m benchmarks.turns ../before . [--rounds 10]

Each side is the step of its checkout's `benchmarks/step.py` (a checkout of 032de4e or later), in a process of its own.
Both sides have this interpreter's packages. The sides take turns, so a slow hour of the machine slows both. The numbers
are the medians of the rounds, and the median of the rounds' ratios: below 1, the second checkout is faster.
"""

import pathlib

import numpy as np

from benchmarks.step import OURS, Side, in_turns
from registry import UserError
from studies import command
from studies.compare import markdown

PARTS = ("step", "banked", "teacher", "student")


def main(folders: list[pathlib.Path], rounds: int, batch: int) -> None:
    """Prints the table."""
    for folder in folders:
        if not (folder / "benchmarks" / "our_step.py").is_file():
            raise UserError(f"{folder} is not a checkout of this library with benchmarks/our_step.py.")
    sides = []
    try:
        for folder in folders:
            sides.append(Side(OURS, batch, 0, folder))
        calls = {(part, side): sides[side].calls(PARTS)[part] for part in PARTS for side in (0, 1)}
        times = in_turns(calls, rounds)
    finally:
        for side in sides:
            side.end()
    rows = [[folder, *(f"{np.median(times[part, n]):.0f}" for part in PARTS)] for n, folder in enumerate(folders)]
    ratios = [f"{np.median(times[part, 1] / times[part, 0]):.2f}" for part in PARTS]
    print(markdown(["", *PARTS], [*rows, ["median of the rounds' ratios", *ratios]]))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("folders", nargs=2, type=pathlib.Path, help="the two checkouts, the older one first")
    parser.add_argument("--rounds", type=command.positive, default=10)
    parser.add_argument("--batch", type=command.positive, default=64)
    command.call(parser, main)
