"""Milliseconds of a 3x3 convolution with 1, 2, 4 and 8 pixels in a row, to choose the values of `pixels_a_row`.

    python -m benchmarks.narrow [--batch 32] [--rounds 15]

The numbers are medians of forward passes in float32; the four ways take turns. The derivative with respect to the input
is such a convolution, too, from the features to the channels. `*` marks the library's choice. With
`ONEDNN_MAX_CPU_ISA=AVX2` before the command, the processor works as one without AVX-512.
"""

import argparse
import statistics
import time

from benchmarks.step import positive
from models.xla_cpu import process

process.tune()

import jax  # noqa: E402  # after `tune` has set the flags

from models.xla_cpu.convolution import convolve_rows, pixels_a_row  # noqa: E402

PIXELS = (1, 2, 4, 8)
CASES = [  # channels, features, side
    *[(3, 16, 32), (3, 32, 32), (3, 64, 32), (16, 3, 32), (64, 3, 32), (8, 8, 32), (8, 16, 32), (16, 8, 32)],
    *[(16, 16, 32), (16, 16, 8), (24, 24, 16), (16, 24, 32), (16, 32, 32), (32, 16, 32), (64, 16, 16), (32, 32, 16)],
]


def milliseconds(program, x, kernel) -> float:
    """Returns the milliseconds of one call: the mean of three calls, after an untimed one."""
    program(x, kernel).block_until_ready()
    start = time.perf_counter()
    for _ in range(3):
        program(x, kernel).block_until_ready()
    return 1000 * (time.perf_counter() - start) / 3


def main(batch: int, rounds: int) -> None:
    """Prints the table."""
    program = jax.jit(convolve_rows, static_argnums=2)
    print("| channels, features, side | " + " | ".join(f"{n} in a row" for n in PIXELS) + " |")
    print("|---" * (1 + len(PIXELS)) + "|")
    for channels, features, side in CASES:
        x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, features))
        ways = [lambda x, kernel, n=n: program(x, kernel, n) for n in PIXELS]
        times = zip(*([milliseconds(way, x, kernel) for way in ways] for _ in range(rounds)), strict=True)
        taken = pixels_a_row(x.shape, kernel.shape)
        cells = [f"{statistics.median(ms):.2f}{'*' if n == taken else ''}" for n, ms in zip(PIXELS, times, strict=True)]
        print(f"| {channels}, {features}, {side} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--rounds", type=positive, default=15)
    main(**vars(parser.parse_args()))
