"""Measures the loading of streamed images, beside a PyTorch DataLoader with torchvision's transforms.

    python -m benchmarks.loading speed --dataset TinyImageNet --data_dir DIR [--size 64] [--workers 2] [--rounds 5]
    python -m benchmarks.loading memory --dataset TinyImageNet --data_dir DIR
    python -m benchmarks.loading wait --dataset TinyImageNet --data_dir DIR

`speed`: images/s of the same files, in turns in one run, and CPU time, that of all threads and processes. Both sides
deliver random resized crops, flipped and normalised, in batches: this library's threads crop and a compiled function
does the rest; PyTorch's worker processes do everything. Without torch and torchvision only this library is measured.
`memory`: the largest memory of a whole run (CNN, labels, tests included) that streams a fifth of the training images,
and of one that streams all, for as many updates. `wait`: how long a step that takes twice the loading's time waits for
its rows.
"""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import data
import models
from data.augment import augment
from registry import UserError
from studies import command
from studies.compare import markdown

LEAST = 0.08  # smallest area of a crop
REPEATED = 1000  # passes over the files in an epoch of PyTorch's
PARTS = ("speed", "memory", "wait")
FIFTH = 5  # the runs whose memory is compared have N / 5 and N images


class Ours:
    """This library's batches: flipped, normalised, float32, on the device."""

    def __init__(self, split: data.Split, dataset: data.Dataset, batch: int, workers: int):
        steps, pool = max(1, len(split) // batch), np.arange(len(split), dtype=np.int32)
        plan = data.Plans(0, pool, 10**9, steps, batch, previous=False)
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        how = {"views": ("weak",), "least": LEAST, "sharding": sharding, "threads": workers}
        self.stream = data.Stream(split, split.labels, plan, **how)
        self.split, self.step = data.DeviceSplit(None, *[np.zeros(1)] * 4), 0
        flipped, mean, std = data.Augmentation(flip=True), np.float32(dataset.mean), np.float32(dataset.std)

        def finish(pictures, step):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), batch)
            return (augment(pictures, keys, flipped) - mean) / std

        self.finish, self._mark = jax.jit(finish), jax.numpy.zeros(())

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            (pictures,) = self.stream.feed(self.split, self.step, self._mark).pictures
            self.finish(pictures, self.step).block_until_ready()
            self.step += 1


def torchs(split: data.Split, dataset: data.Dataset, batch: int, workers: int):
    """A function like `Ours`, of a PyTorch DataLoader over the same files; None if PyTorch is not installed."""
    try:
        import torch
        from PIL import Image
        from torch.utils.data import DataLoader
        from torch.utils.data import Dataset as Base
        from torchvision import transforms
    except ImportError as error:
        print(f"PyTorch is not measured: {error}.")
        return None
    crop = transforms.RandomResizedCrop(split.image_shape[0], (LEAST, 1.0))
    last = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
    change = transforms.Compose([crop, *last])

    class Files(Base):
        def __len__(self):
            return REPEATED * len(split)  # its processes stop at the end of an epoch, and 200 photographs end soon

        def __getitem__(self, i):
            i = i % len(split)
            with Image.open(split.source.where(i)) as image:
                return change(image.convert("RGB")), int(split.labels[i])

    torch.set_num_threads(workers)
    again = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader = DataLoader(Files(), batch, shuffle=True, drop_last=True, num_workers=workers, **again)
    endless = iter(loader)

    def take(batches: int) -> None:
        for _ in range(batches):
            next(endless)

    return take


def cpu_seconds() -> float:
    """Seconds of work of this process and its children: they do not depend on what else the machine does."""
    import psutil

    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def speed(split, dataset, batch: int, workers: int, rounds: int) -> None:
    """Prints the images/s of both sides."""
    theirs = torchs(split, dataset, batch, workers)
    if theirs:
        theirs(2)  # starts the processes, before JAX has threads
    sides = {"this library": Ours(split, dataset, batch, workers)} | ({"PyTorch": theirs} if theirs else {})
    sides["this library"](2)  # compiles
    batches, rates, costs = 20, {name: [] for name in sides}, {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begun, used = time.perf_counter(), cpu_seconds()
            side(batches)
            rates[name].append(batches * batch / (time.perf_counter() - begun))
            costs[name].append(1000 * (cpu_seconds() - used) / (batches * batch))
    rows = [
        [name, f"{np.median(own):.0f}", f"{min(own):.0f} to {max(own):.0f}", f"{np.median(costs[name]):.2f}"]
        for name, own in rates.items()
    ]
    print(markdown(["", "images/s", "range of the rounds", "CPU ms an image"], rows))
    if len(rates) > 1:
        ratios = np.divide(*rates.values())
        print(f"{dataset.name}, {split.image_shape[0]} pixels, {workers} workers, batch {batch}: the median of the")
        print(f"rounds' ratios is {np.median(ratios):.2f}.")


def memory(arguments: list[str], rounds: int) -> None:
    """Prints the largest memory of two runs, each in a process of its own that compiles its programs.

    The smallest of the rounds counts: now and then the memory of two updates on the device overlaps.
    """
    found, alone = {FIFTH: [], 1: []}, {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    for share in [*found] * rounds:
        call = [sys.executable, "-m", "benchmarks.loading", "run", *arguments, "--share", str(share)]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True, env=alone)
        found[share].append([int(number) for number in done.stdout.splitlines()[-1].split()])
    few, many = map(min, found.values())
    head = ["images", "updates", "largest memory in MB"]
    print(markdown(head, [[f"{number:,}" for number in row] for row in (few, many)]))
    print(f"{100 * (many[-1] / few[-1] - 1):+.1f} %.")


def run(dataset: str, data_dir: str, size: int, batch: int, workers: int, share: int) -> None:
    """Trains on a share of the images, and prints their number, the updates and the largest memory in MB."""
    from training.train import train

    found = data.load(dataset, data_dir, size, loading="stream")
    count = len(found.train) // (FIFTH * batch) * FIFTH * batch  # so that both runs make the same updates
    if not count:
        raise UserError(
            f"--batch {batch}: a fifth of {len(found.train):,} training images is less. Give a smaller one."
        )
    own = dataclasses.replace(found, train=found.train.part(np.arange(0, count, share)))
    globals()["own"] = lambda data_dir: own  # `--dataset MODULE:NAME` is a loader of one's own
    recipe = {"dataset": f"{__name__}:own", "loading": "stream", "loading_threads": workers, "batch_size": batch}
    recipe |= {"transfer": "Labels", "student_arch": "CNN", "train_epoch": share, "eval_every": share}
    with tempfile.TemporaryDirectory() as folder:
        steps = train({**recipe, "train_path": f"{folder}/run"}, quiet=True)["steps"]
    print(len(own.train), steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def wait(split, dataset, batch: int, workers: int, rounds: int) -> None:
    """Prints how long a step waits that is slower than the loading."""
    ours = Ours(split, dataset, batch, workers)
    ours(3)
    begun = time.perf_counter()
    ours(10)
    alone, waits = (time.perf_counter() - begun) / 10, []
    for _ in range(5 * rounds):
        time.sleep(2 * alone)  # the device works, and the host is free
        begun = time.perf_counter()
        ours.stream.feed(ours.split, ours.step, ours._mark)
        waits.append(time.perf_counter() - begun)
        ours.step += 1
    rows = [[f"{1000 * x:.1f}" for x in (alone, 2 * alone, np.median(waits), max(waits))]]
    print(markdown(["a batch, loading alone (ms)", "step (ms)", "median wait (ms)", "longest wait (ms)"], rows))


def main(part: str, dataset: str, data_dir: str, size: int, batch: int, workers: int, rounds: int, share: int) -> None:
    """Runs one part."""
    models.xla_cpu.prepare()
    options = ["--dataset", dataset, "--data_dir", data_dir, "--size", str(size), "--batch", str(batch)]
    if part == "memory":
        return memory([*options, "--workers", str(workers)], rounds)
    if part == "run":
        return run(dataset, data_dir, size, batch, workers, share)
    found = data.load(dataset, data_dir, size, loading="stream")
    split = found.train if len(found.train) else found.test
    if not hasattr(split, "source"):
        raise UserError(f"{dataset} does not lie in files of pictures. Take ImageNet, TinyImageNet or ImageFolder.")
    batch = min(batch, len(split))
    return (speed if part == "speed" else wait)(split, found, batch, workers, rounds)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("part", choices=(*PARTS, "run"))
    parser.add_argument("--dataset", default="TinyImageNet")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--size", type=int, default=0, help="side of the images in pixels; 0: the dataset's")
    parser.add_argument("--batch", type=command.positive, default=64)
    parser.add_argument("--workers", type=command.positive, default=2, help="threads, and PyTorch's processes")
    parser.add_argument("--rounds", type=command.positive, default=5)
    parser.add_argument("--share", type=command.positive, default=1, help="of `run`'s images: 5 means a fifth")
    command.call(parser, main)
