"""Measures the loading of streamed images, beside a PyTorch DataLoader with torchvision's transforms.

    python -m benchmarks.loading speed --dataset TinyImageNet --data_dir DIR [--size 64] [--workers 2] [--rounds 5]
    python -m benchmarks.loading memory --dataset TinyImageNet --data_dir DIR
    python -m benchmarks.loading wait --dataset TinyImageNet --data_dir DIR

`speed`: images/s of the same files, in turns in one run. Both sides deliver random resized crops, flipped and
normalised, in batches: this library's threads crop and a compiled function does the rest; PyTorch's worker processes do
everything. Without torch and torchvision only this library is measured. `memory`: the largest memory of a process that
streams the first fifth of the training images, and of one that streams all, the same number of batches. `wait`: how
long a step that takes twice the loading's time waits for its rows.
"""

import itertools
import resource
import subprocess
import sys
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
PARTS = ("speed", "memory", "wait")


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
            return len(split)

        def __getitem__(self, i):
            with Image.open(split.source.where(i)) as image:
                return change(image.convert("RGB")), int(split.labels[i])

    torch.set_num_threads(workers)
    again = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader = DataLoader(Files(), batch, shuffle=True, drop_last=True, num_workers=workers, **again)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))

    def take(batches: int) -> None:
        for _ in range(batches):
            next(endless)

    return take


def speed(split, dataset, batch: int, workers: int, rounds: int) -> None:
    """Prints the images/s of both sides."""
    theirs = torchs(split, dataset, batch, workers)
    if theirs:
        theirs(2)  # starts the processes, before JAX has threads
    sides = {"this library": Ours(split, dataset, batch, workers)} | ({"PyTorch": theirs} if theirs else {})
    sides["this library"](2)  # compiles
    batches, rates = max(2, min(20, len(split) // batch)), {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begun = time.perf_counter()
            side(batches)
            rates[name].append(batches * batch / (time.perf_counter() - begun))
    rows = [[name, f"{np.median(own):.0f}", f"{min(own):.0f} to {max(own):.0f}"] for name, own in rates.items()]
    print(markdown(["", "images/s", "range of the rounds"], rows))
    if len(rates) > 1:
        ratios = np.divide(*rates.values())
        print(f"{dataset.name}, {split.image_shape[0]} pixels, {workers} workers, batch {batch}: the median of the")
        print(f"rounds' ratios is {np.median(ratios):.2f}.")


def memory(arguments: list[str]) -> None:
    """Prints the largest memory of two processes of this program."""
    found = {}
    for share in ("5", "1"):
        call = [sys.executable, "-m", "benchmarks.loading", "stream", *arguments, "--share", share]
        count, size = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()[-2:]
        found[int(count)] = int(size) / 1024
    few, many = found.values()
    rows = [[f"{count:,}", f"{size:.0f}"] for count, size in found.items()]
    print(markdown(["images", "largest memory in MB"], rows))
    print(f"{100 * (many / few - 1):+.1f} %.")


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
        return memory([*options, "--workers", str(workers)])
    found = data.load(dataset, data_dir, size, loading="stream")
    split = found.train if len(found.train) else found.test
    if not hasattr(split, "source"):
        raise UserError(f"{dataset} does not lie in files of pictures. Take ImageNet, TinyImageNet or ImageFolder.")
    split = split.part(np.arange(len(split) // share))
    batch = min(batch, len(split))
    if part == "stream":
        Ours(split, found, batch, workers)(30)
        print(len(split), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return None
    return (speed if part == "speed" else wait)(split, found, batch, workers, rounds)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("part", choices=(*PARTS, "stream"))
    parser.add_argument("--dataset", default="TinyImageNet")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--size", type=int, default=0, help="side of the images in pixels; 0: the dataset's")
    parser.add_argument("--batch", type=command.positive, default=64)
    parser.add_argument("--workers", type=command.positive, default=2, help="threads, and PyTorch's processes")
    parser.add_argument("--rounds", type=command.positive, default=5)
    parser.add_argument("--share", type=command.positive, default=1, help="of the images: 5 means a fifth")
    command.call(parser, main)
