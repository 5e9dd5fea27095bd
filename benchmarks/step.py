"""Milliseconds of one whole distillation step and of its parts, beside the same step in plain PyTorch.

    python -m benchmarks.step [--rounds 15] [--batch 64]          # PyTorch beside it: pip install -e '.[torch]'

ResNet-56 teacher, ResNet-20 student, SoftLogits, CIFAR-sized images, float32, augmentation included. Ours is the step
that training runs, built by the same functions, its teacher folded; `banked` is that step with a teacher bank of four
views (`--teacher_views 4`) beside PyTorch's whole step, which has its teacher in it. Each of the three sides has a
process of its own, as it would have in use, so that none finds the others' heap; they take turns, and wait for each
other. Each number is the median over the rounds, each ratio the median of the rounds' ratios (robust to a machine that
slows down for a while).
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

import numpy as np

PARTS = ("step", "banked", "teacher", "student", "augmentation")
IMAGES = 10_000  # of the split that all sides train on
OURS = "kd-cookbook"
SIDES = {OURS: {}, "PyTorch": {}, "PyTorch channels_last": {"channels_last": True}}  # name -> options of its step


def torch_is_here() -> bool:
    """Whether PyTorch is installed; where it is not, says how to have it."""
    if importlib.util.find_spec("torch"):
        return True
    print("PyTorch is not installed: no ratios. To have them: pip install -e '.[torch]'")
    return False


def positive(text: str) -> int:
    """A whole number of the command line, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def build(side: str, batch: int, threads: int, **options):
    """The side's object, on a split of random images; called in the side's process."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
    labels = rng.randint(0, 100, IMAGES).astype(np.int32)
    if side == OURS:
        from benchmarks.our_step import OurStep

        return OurStep(images, labels, batch, **options)
    import torch

    from benchmarks.torch_step import TorchStep

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchStep(images, labels, batch, device=device, **options)


def milliseconds(call) -> float:
    """Of one call, from five in a row as in training, after two untimed ones that follow another side's."""
    for _ in range(2):
        call()
    start = time.perf_counter()
    for _ in range(5):
        call()
    return 200 * (time.perf_counter() - start)


def serve(pipe: Connection, side: str, batch: int, threads: int, options: dict) -> None:
    """Builds the side, says how long that took with the first step, and does what it is asked until the pipe ends."""
    start = time.perf_counter()
    thing = build(side, batch, threads, **options)
    thing.step()
    pipe.send(time.perf_counter() - start)
    with contextlib.suppress(EOFError):
        while True:
            name, *arguments = pipe.recv()
            if name == "milliseconds":
                pipe.send(milliseconds(getattr(thing, *arguments)))
            elif name == "memory":
                pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
            else:
                pipe.send(getattr(thing, name)(*arguments))


class Side:
    """A process with one side in it. `ask(name, *arguments)` calls a method there and waits for what it returns.

    Args:
        side: `OURS`, or PyTorch.
        batch: images a step.
        threads: PyTorch's, on a CPU.
        **options: of `OurStep` or `TorchStep`.
    """

    def __init__(self, side: str, batch: int, threads: int, **options):
        context = multiprocessing.get_context("spawn")
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=serve, args=(its_end, side, batch, threads, options), daemon=True)
        self._process.start()
        its_end.close()
        self.start_seconds = self._answer()

    def ask(self, name: str, *arguments):
        self._pipe.send((name, *arguments))
        return self._answer()

    def end(self) -> None:
        """Ends the process, and with it what it holds of a device's memory."""
        self._process.kill()
        self._process.join()

    def _answer(self):
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("A side's process ended; what it said is above.") from None


def measure(sides: dict[str, Side], rounds: int) -> dict:
    """side -> part -> [rounds] milliseconds; sides and parts alternate, the first round is dropped."""
    times = {side: {part: [] for part in PARTS} for side in sides}
    for _ in range(rounds + 1):
        for part in PARTS:
            for side, thing in sides.items():
                times[side][part].append(thing.ask("milliseconds", part))
    return {side: {part: np.asarray(ms[1:]) for part, ms in parts.items()} for side, parts in times.items()}


def main(rounds: int, batch: int, threads: int) -> None:
    """Prints the table, and one line of JSON."""
    names = SIDES if torch_is_here() else [OURS]
    sides = {name: Side(name, batch, threads, **SIDES[name]) for name in names}
    times = measure(sides, rounds)
    devices = sides[OURS].ask("devices")
    print(f"\n{devices}, batch {batch}, float32, medians of {rounds} rounds")
    head = "".join(f"{side:>24}" for side in sides) + "".join(f"{'ratio to ' + s:>33}" for s in list(sides)[1:])
    print(f"{'ms':<14}{head}")
    medians, ratios = {}, {}
    for part in PARTS:
        mine = times[OURS][part]
        medians[part] = {side: float(np.median(times[side][part])) for side in sides}
        ratios[part] = {side: float(np.median(times[side][part] / mine)) for side in list(sides)[1:]}
        row = "".join(f"{ms:>24.1f}" for ms in medians[part].values())
        print(f"{part:<14}{row}" + "".join(f"{ratio:>32.2f}x" for ratio in ratios[part].values()))
    rates = {side: 1000 * batch / ms for side, ms in medians["step"].items()}
    print("images/s      " + "".join(f"{rate:>24.0f}" for rate in rates.values()))
    memory = {name: side.ask("memory") for name, side in sides.items()}
    print("peak GiB      " + "".join(f"{gib:>24.2f}" for gib in memory.values()))
    compiled = sides[OURS].start_seconds
    print(f"start and compile {compiled:.1f} s")
    overhead = None if devices.endswith("cpu") else sides[OURS].ask("host_overhead")  # a CPU has no queue
    if overhead is not None:
        print(f"host overhead {100 * overhead:.1f} % of a step")
    before = sides[OURS].ask("seconds", 75, False)
    rate = sides[OURS].ask("run_rate")
    bare = 150 * batch / (before + sides[OURS].ask("seconds", 75, False))
    share = 100 * rate / bare
    print(
        f"a run of 150 steps with log lines: {rate:.0f} images/s; 150 bare steps around it: {bare:.0f} ({share:.1f} %)"
    )
    result = {
        "ms": medians,
        "speed_against": ratios,
        "host_overhead": overhead,
        "images_per_second": rates,
        "peak_gib": memory,
        "run": rate,
    }
    print(json.dumps({**result, "compile_seconds": compiled}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--threads", type=positive, default=2, help="PyTorch's threads")
    main(**vars(parser.parse_args()))
