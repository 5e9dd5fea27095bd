"""Milliseconds of one whole distillation step and of its parts, compared with the same step in plain PyTorch.

    python -m benchmarks.step [--rounds 15] [--batch 64]          # PyTorch beside it: pip install -e '.[torch]'

ResNet-56 teacher, ResNet-20 student, SoftLogits, CIFAR-sized images, float32, augmentation included. The library's step
is the one that training runs, built by the same functions, with a folded teacher. `banked` is this step with a teacher
bank of four views (`--teacher_views 4`), compared with PyTorch's whole step, which runs its teacher.

A side is one implementation. Each side has a process of its own, as in normal use, so the sides do not share a heap.
The sides take turns. Each number is the median over the rounds. Each ratio is the median of the rounds' ratios, which
hardly changes if the machine slows down for a while.
"""

import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from registry import UserError
from studies import command
from studies.command import positive  # noqa: F401  # for benchmarks/narrow.py

PARTS = ("step", "banked", "teacher", "student", "augmentation")
IMAGES = 10_000  # of the split that all sides train on
OURS = "kd-cookbook"
SIDES = {OURS: {}, "PyTorch": {}, "PyTorch channels_last": {"channels_last": True}}  # name -> options of its step
ROOT = pathlib.Path(__file__).resolve().parent.parent

# The program of a side's process. It imports the modules of its own checkout. It reads lines of JSON, [name,
# arguments], and answers each line with the result of that call as a line of JSON. Its first line has the seconds of
# building the side and of a first step.
SERVE = """
import json, resource, sys, time
answers, sys.stdout = sys.stdout, sys.stderr
from benchmarks.step import build, milliseconds
side, batch, threads, options = json.loads(sys.argv[1])
start = time.perf_counter()
thing = build(side, batch, threads, **options)
thing.step()
print(json.dumps(time.perf_counter() - start), file=answers, flush=True)
for name, *arguments in map(json.loads, sys.stdin):
    if name == "milliseconds":
        answer = milliseconds(getattr(thing, *arguments))
    elif name == "memory":
        answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        answer = getattr(thing, name)(*arguments)
    print(json.dumps(answer), file=answers, flush=True)
"""


def torch_is_here() -> bool:
    """Returns whether PyTorch is installed. If not, prints the command that installs PyTorch."""
    if importlib.util.find_spec("torch"):
        return True
    print("PyTorch is not installed: no ratios. To have them: pip install -e '.[torch]'")
    return False


def split(count: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Makes random images [count, 32, 32, 3] uint8 and labels [count] int32 of 100 classes."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return images, rng.randint(0, 100, count).astype(np.int32)


def build(side: str, batch: int, threads: int, **options):
    """Makes the side's object. Called in the side's process."""
    if side == OURS:
        from benchmarks import our_step

        return our_step.alone(*split(), batch, **options)
    import torch

    from benchmarks.torch_step import TorchStep

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchStep(*split(), batch, device=device, **options)


def milliseconds(call) -> float:
    """Returns the milliseconds of one call: the mean of five calls in a row, as in training.

    The first two calls are not timed, because another side ran before them.
    """
    for _ in range(2):
        call()
    start = time.perf_counter()
    for _ in range(5):
        call()
    return 200 * (time.perf_counter() - start)


def in_turns(calls: dict, rounds: int) -> dict:
    """Makes the calls in turns, and drops the first round, which compiles. Returns name -> results, [rounds]."""
    found = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            found[name].append(call())
    return {name: np.asarray(values[1:]) for name, values in found.items()}


class Side:
    """A process with one side in it. `ask(name, *arguments)` calls a method there and waits for the answer.

    Args:
        side: `OURS`, or "PyTorch".
        batch: images in a step.
        threads: PyTorch's number of threads on a CPU.
        folder: the checkout whose modules the process imports.
        **options: options of `OurStep` or `TorchStep`.
    """

    def __init__(self, side: str, batch: int, threads: int, folder: pathlib.Path = ROOT, **options):
        arguments = [sys.executable, "-c", SERVE, json.dumps([side, batch, threads, options])]
        self._process = subprocess.Popen(
            arguments, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.start_seconds = self._answer()

    def ask(self, name: str, *arguments):
        with contextlib.suppress(BrokenPipeError):  # if the process has ended, `_answer` raises an error
            print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def calls(self, parts) -> dict[str, Callable]:
        """Returns part -> a function that returns the milliseconds of one call of this part."""
        return {part: lambda part=part: self.ask("milliseconds", part) for part in parts}

    def end(self) -> None:
        """Ends the process. This frees the device's memory that the process holds."""
        self._process.kill()
        self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise UserError("A side's process ended; its output is above.")
        return json.loads(line)


def main(rounds: int, batch: int, threads: int) -> None:
    """Prints the table, and one line of JSON."""
    names = list(SIDES) if torch_is_here() else [OURS]
    sides = {name: Side(name, batch, threads, **SIDES[name]) for name in names}
    calls = {(part, name): sides[name].calls(PARTS)[part] for part in PARTS for name in names}
    times = in_turns(calls, rounds)
    devices = sides[OURS].ask("devices")
    print(f"\n{devices}, batch {batch}, float32, medians of {rounds} rounds")
    head = "".join(f"{name:>24}" for name in names) + "".join(f"{'ratio to ' + name:>33}" for name in names[1:])
    print(f"{'ms':<14}{head}")
    medians, ratios = {}, {}
    for part in PARTS:
        medians[part] = {name: float(np.median(times[part, name])) for name in names}
        ratios[part] = {name: float(np.median(times[part, name] / times[part, OURS])) for name in names[1:]}
        row = "".join(f"{ms:>24.1f}" for ms in medians[part].values())
        print(f"{part:<14}{row}" + "".join(f"{ratio:>32.2f}x" for ratio in ratios[part].values()))
    rates = {name: 1000 * batch / ms for name, ms in medians["step"].items()}
    print("images/s      " + "".join(f"{rate:>24.0f}" for rate in rates.values()))
    memory = {name: side.ask("memory") for name, side in sides.items()}
    print("peak GiB      " + "".join(f"{gib:>24.2f}" for gib in memory.values()))
    ours = sides[OURS]
    print(f"start and compile {ours.start_seconds:.1f} s")
    overhead = None if devices.endswith("cpu") else ours.ask("host_overhead")  # a CPU has no queue
    if overhead is not None:
        print(f"host overhead {100 * overhead:.1f} % of a step")
    result = {"ms": medians, "speed_against": ratios, "host_overhead": overhead, "images_per_second": rates}
    print(json.dumps({**result, "peak_gib": memory, "compile_seconds": ours.start_seconds}))
    for side in sides.values():
        side.end()


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=command.positive, default=15)
    parser.add_argument("--batch", type=command.positive, default=64)
    parser.add_argument("--threads", type=command.positive, default=2, help="PyTorch's threads")
    command.call(parser, main)
