"""Images/s of the whole distillation step on a GPU, for one seed and for several, beside PyTorch.

    python -m benchmarks.accelerator [--batches 128,512] [--dtypes float32,bfloat16] [--seeds 1,2,4,8]

The step is that of `benchmarks/step.py`. A side is one implementation in a process of its own. PyTorch's sides are:
- float32: eager; eager with channels_last; `torch.compile` in its default mode.
- bfloat16: autocast (AMP) with channels_last, without and with `torch.compile`.
All sides of a batch size and type take turns on the first GPU. This library trains several seeds in one program, and
the images of all seeds are counted. So eight seeds at 8x train in the time of one run of the best PyTorch side.

The roofline is the shortest possible time of one update on the device. It is the longer of two times: the FLOPs of
convolutions and matrix products (from the networks' multiply-adds) at peak speed, and the bytes that XLA counts for the
compiled step at peak bandwidth. The column "of the roofline" is this time divided by the measured time. In float32 each
side uses TF32 as it does by default: PyTorch in convolutions, JAX also in matrix products.
"""

import contextlib
import itertools
import os
import sys

import numpy as np

from benchmarks.step import IMAGES, OURS, Side, torch_is_here
from registry import UserError, unknown
from studies import command

RIVALS = {
    "float32": {
        "PyTorch": {},
        "PyTorch channels_last": {"channels_last": True},
        "PyTorch torch.compile": {"compiled": True},
    },
    "bfloat16": {
        "PyTorch AMP, channels_last": {"amp": True, "channels_last": True},
        "PyTorch AMP, channels_last, torch.compile": {"amp": True, "channels_last": True, "compiled": True},
    },
}
# Dense peaks by the makers' data sheets: FLOP/s (float32 with TF32, bfloat16), and bytes/s of memory. If a device has
# several versions, the numbers are of the SXM version.
PEAKS = {
    "H200": ({"float32": 494e12, "bfloat16": 989e12}, 4.8e12),
    "H100": ({"float32": 494e12, "bfloat16": 989e12}, 3.35e12),
    "A100": ({"float32": 156e12, "bfloat16": 312e12}, 2.0e12),  # the version with 80 GB
    "L4": ({"float32": 60e12, "bfloat16": 121e12}, 0.3e12),
}
HEAD = "| batch | type | | images/s | against the best PyTorch | TFLOP/s | of the roofline |"


def roofline(device: str, dtype: str, work: dict[str, float]) -> float:
    """Returns the shortest possible seconds of one update; NaN for a device that `PEAKS` does not have."""
    for name, (flops, memory) in PEAKS.items():
        if name in device.replace("-", " ").split():
            return float(np.nanmax([work["flops"] / flops[dtype], work["bytes"] / memory]))
    return float("nan")


def rows(batch: int, dtype: str, rates: dict[str, float], ours: list[str], work: dict[str, float], shortest: float):
    """Yields a line of the Markdown table for each side.

    Args:
        batch, dtype: batch size and type of all sides.
        rates: side -> images/s, of all its seeds together.
        ours: the names of this library's sides.
        work: FLOPs and bytes of one update of one seed (`OurStep.work`).
        shortest: the roofline's seconds for one update of one seed.
    """
    best = max((rate for side, rate in rates.items() if side not in ours), default=float("nan"))
    for side, rate in rates.items():
        share = f"{100 * shortest * rate / batch:.0f} %" if side in ours and shortest == shortest else ""
        ratio = f"{rate / best:.2f}x" if best == best else ""
        teraflops = work["flops"] * rate / batch / 1e12
        yield f"| {batch} | {dtype} | {side} | {rate:,.0f} | {ratio} | {teraflops:.3g} | {share} |"


def measure(batch: int, dtype: str, seeds: list[int], rivals: dict[str, dict], rounds: int, updates: int):
    """Measures all sides in turns. Drops the first round.

    Returns:
        (side -> images/s, names of this library's sides, device, `work` as for `rows`).
    """
    ours = {f"{OURS}, {n} seed{'s' * (n > 1)}": n for n in seeds}
    asked = {name: (name, batch, os.cpu_count(), options) for name, options in rivals.items()}
    asked |= {name: (OURS, batch, 0, {"dtype": dtype, "seeds": n}) for name, n in ours.items()}
    sides, seconds = {}, {}
    try:
        for name, (side, *arguments, options) in asked.items():
            with _left_out(name, sides):
                sides[name] = Side(side, *arguments, **options)
        for _ in range(rounds + 1):
            for name, side in list(sides.items()):
                with _left_out(name, sides):
                    seconds.setdefault(name, []).append(side.ask("updates", updates))
        devices = {name: side.ask("devices") for name, side in sides.items()}
        first = next((sides[name] for name in ours if name in sides), None)
        if not first:
            raise UserError("None of this library's sides ran; their output is above.")
        device, work = first.ask("devices"), first.ask("work")
    finally:
        for side in sides.values():
            side.end()
    for name, its in devices.items():
        if its.endswith("cpu") != device.endswith("cpu"):
            raise UserError(
                f"{name} on {its} and {OURS} on {device} cannot be compared. Install both for the same device."
            )
    images = {name: batch * updates * ours.get(name, 1) for name in sides}
    return {n: images[n] / float(np.median(seconds[n][1:])) for n in sides}, list(ours), device, work


@contextlib.contextmanager
def _left_out(name: str, sides: dict[str, Side]):
    """Drops a side whose process ends, for example from too little memory, and goes on without this side."""
    try:
        yield
    except UserError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        if name in sides:
            sides.pop(name).end()


def main(batches: list[int], dtypes: list[str], seeds: list[int], rounds: int, updates: int) -> None:
    """Prints the table."""
    for dtype in dtypes:
        if dtype not in RIVALS:
            raise unknown("type", dtype, RIVALS)
    if max(batches) > IMAGES:
        raise UserError(f"--batches {max(batches)} is more than the benchmark's {IMAGES:,} images.")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the sides share the device
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the first GPU only
    torch = torch_is_here()
    for number, (batch, dtype) in enumerate(itertools.product(batches, dtypes)):
        rivals = RIVALS[dtype] if torch else {}
        rates, ours, device, work = measure(batch, dtype, seeds, rivals, rounds, updates)
        if not number:
            print(f"{device}, {updates} updates a call, medians of {rounds} rounds\n\n{HEAD}\n" + "|---" * 7 + "|")
        print("\n".join(rows(batch, dtype, rates, ours, work, roofline(device, dtype, work))), flush=True)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--batches", type=command.numbers, default="128,512", help="images a step")
    parser.add_argument("--dtypes", type=command.names, default="float32,bfloat16", help="compute types")
    parser.add_argument("--seeds", type=command.numbers, default="1,2,4,8", help="replicas in one program")
    parser.add_argument("--rounds", type=command.positive, default=5)
    parser.add_argument("--updates", type=command.positive, default=50, help="updates in one call, as in training")
    command.call(parser, main)
