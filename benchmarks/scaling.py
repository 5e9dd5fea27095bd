"""Speed by size: images/s of ResNet-8 to ResNet-110 at batch 32 to 512, and seconds per epoch of 1, 2 and 4 seeds.

    python -m benchmarks.scaling [--archs ResNet8,ResNet20,ResNet56,ResNet110] [--batches 32,128,512] [--out DIR]

Training on labels at 32x32x3 in 100 classes, augmentation included, float32: medians of single calls of the compiled
step, after a first call that compiles. Writes `scaling.md` and `scaling.png` to --out.
"""

import pathlib

import jax
import numpy as np

from benchmarks import step
from benchmarks.our_step import OurStep
from registry import UserError
from studies import command, compare

EXAMPLES, EPOCH = 2048, 50_000
SEEDS = (1, 2, 4)


def seconds_per_step(arch: str, batch: int, seeds: int = 1, calls: int = 5) -> float:
    """Returns the median seconds of `calls` updates of all seeds; each update is waited for."""
    ours = OurStep(*step.split(EXAMPLES), batch, teacher="", student=arch, seeds=seeds)
    return float(np.median(step.in_turns({arch: lambda: ours.updates(1)}, calls)[arch]))


def tables(archs: list[str], batches: list[int], rates: dict, epochs: dict) -> str:
    """Makes two tables: images/s by network and batch; seconds per epoch of 50,000 images by seeds, and per seed."""
    speed = [[arch, *(f"{rates[arch, batch]:,.0f}" for batch in batches)] for arch in archs]
    cost = [[f"{n} seed{'s' * (n > 1)}", f"{s:.1f}", f"{s / n:.1f}"] for n, s in epochs.items()]
    titles = [f"{archs[0]}, batch {batches[0]}", "seconds an epoch", "per seed"]
    speed = compare.markdown(["images/s", *(f"batch {b}" for b in batches)], speed)
    return f"{speed}\n\n{compare.markdown(titles, cost)}"


def plot(archs: list[str], batches: list[int], rates: dict, path: pathlib.Path) -> None:
    """Draws images/s over the batch size, a line for each network."""
    figure, axes = compare.figure(6)
    for colour, arch in zip(compare.COLOURS, archs, strict=False):
        values = [rates[arch, b] for b in batches]
        axes.plot(batches, values, "o-", color=colour)
        axes.annotate(arch, (batches[-1], values[-1]), (8, 0), textcoords="offset points", va="center", color=colour)
    low, high = min(rates.values()), max(rates.values())
    ticks = [n * 10**e for e in range(8) for n in (1, 2, 5) if 0.5 * low <= n * 10**e <= 2 * high]
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="images/s", ylim=(0.7 * low, 1.4 * high))
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    figure.savefig(path, dpi=120)


def main(archs: list[str], batches: list[int], out: pathlib.Path) -> None:
    """Measures, prints the tables, and writes them and the picture."""
    if max(batches) > EXAMPLES:
        raise UserError(f"--batches {max(batches)} is more than the benchmark's {EXAMPLES:,} images.")
    out.mkdir(parents=True, exist_ok=True)
    rates = {}
    for arch in archs:
        for batch in batches:
            rates[arch, batch] = batch / seconds_per_step(arch, batch, calls=max(5, 640 // batch))
            print(f"{arch}, batch {batch}: {rates[arch, batch]:,.0f} images/s", flush=True)
    epochs = {n: seconds_per_step(archs[0], batches[0], n, calls=20) * EPOCH / batches[0] for n in SEEDS}
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    text = f"{devices}, jax {jax.__version__}\n\n{tables(archs, batches, rates, epochs)}\n"
    print("\n" + text)
    (out / "scaling.md").write_text(text)
    plot(archs, batches, rates, out / "scaling.png")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--archs", type=command.names, default="ResNet8,ResNet20,ResNet56,ResNet110")
    parser.add_argument("--batches", type=command.numbers, default="32,128,512")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/scaling"))
    command.call(parser, main)
