"""Cost against work: images/s of ResNet-8 to -110 at batches of 32 to 512, and seconds an epoch of 1, 2 and 4 seeds.

python -m benchmarks.scaling [--archs ResNet8,ResNet20,ResNet56,ResNet110] [--batches 32,128,512] [--out DIR]

Training on labels at 32x32x3 in 100 classes, augmentation included, float32: medians of single calls of the compiled
step after a first one that compiles. Writes `scaling.md` and `scaling.png` to --out.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import data
import models
import transfer
from benchmarks import compare
from registry import UserError
from training import config as configs
from training import optimizer
from training.step import DeviceSplit, Totals, Trainer, batch_of, replicate

AUGMENTATION = data.Augmentation(pad=4, flip=True)
EXAMPLES, EPOCH = 2048, 50_000
SEEDS = (1, 2, 4)
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def seconds_per_step(arch: str, batch: int, seeds: int = 1, calls: int = 5) -> float:
    """Median of `calls` updates of all seeds, waited for."""
    player = transfer.Player("student", models.create(arch, 100), MEAN, STD)
    steps = EXAMPLES // batch
    strategy = transfer.create("Labels", student=player, optimizer=optimizer.create(configs.defaults(), steps))
    stacked = jax.default_backend() != "cpu" and seeds > 1
    trainer = Trainer(strategy, AUGMENTATION, stacked=stacked)
    random = np.random.RandomState(0)
    images = replicate(random.randint(0, 256, (EXAMPLES, 32, 32, 3)).astype(np.uint8))
    labels = replicate(random.randint(0, 100, EXAMPLES).astype(np.int32))
    states, totals, splits = [], [], []
    for seed in range(seeds):
        index, view = data.epoch_plan(seed, 0, jnp.arange(EXAMPLES, dtype=jnp.int32), steps * batch, batch)
        order = replicate((jnp.asarray(seed, jnp.int32), index.reshape(-1, batch), view.reshape(-1, batch)))
        splits.append(DeviceSplit(images, labels, *order))
        first = jax.jit(batch_of, static_argnums=2)(splits[-1], jnp.zeros((), jnp.int32), AUGMENTATION)
        states.append(replicate(jax.jit(strategy.init)(jax.random.key(seed), first)))
        names = jax.eval_shape(strategy.traced_step, states[-1], first, jax.random.key(0))[1]
        totals.append(replicate(Totals.empty(names)))
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        states, totals = trainer(states, totals, splits)
        jax.block_until_ready(totals)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def tables(archs: list[str], batches: list[int], rates: dict, epochs: dict) -> str:
    """Markdown: images/s by network and batch; seconds an epoch of 50,000 images by seeds, and each seed's share."""
    lines = ["| images/s | " + " | ".join(f"batch {b}" for b in batches) + " |", "|---" * (len(batches) + 1) + "|"]
    lines += [f"| {a} | " + " | ".join(f"{rates[a, b]:,.0f}" for b in batches) + " |" for a in archs]
    lines += ["", f"| {archs[0]}, batch {batches[0]} | seconds an epoch | per seed |", "|---|---|---|"]
    lines += [f"| {n} seed{'s' * (n > 1)} | {s:.1f} | {s / n:.1f} |" for n, s in epochs.items()]
    return "\n".join(lines)


def plot(archs: list[str], batches: list[int], rates: dict, path: pathlib.Path) -> None:
    """Images/s over the batch size, a line a network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe, Ito: colour-blind safe
    for colour, arch in zip(colours, archs, strict=False):
        values = [rates[arch, b] for b in batches]
        axes.plot(batches, values, "o-", color=colour)
        axes.annotate(arch, (batches[-1], values[-1]), (8, 0), textcoords="offset points", va="center", color=colour)
    low, high = min(rates.values()), max(rates.values())
    ticks = [n * 10**e for e in range(8) for n in (1, 2, 5) if 0.5 * low <= n * 10**e <= 2 * high]
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="images/s", ylim=(0.7 * low, 1.4 * high))
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(archs: list[str], batches: list[int], out: pathlib.Path) -> None:
    """Measures, prints and writes."""
    if max(batches) > EXAMPLES:
        raise UserError(f"--batches {max(batches)} is more than the {EXAMPLES:,} images that there are.")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=compare.names, default="ResNet8,ResNet20,ResNet56,ResNet110")
    parser.add_argument("--batches", type=compare.numbers, default="32,128,512")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/scaling"))
    compare.call(parser, main)
