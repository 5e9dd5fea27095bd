"""A process with so many virtual devices, for tests that compare device counts: jobs in, JSON out.

python many_devices.py COUNT '[{"order": {}}, {"train": {...}}, {"train": {...}, "stop_at": 5}]'
"""

import functools
import json
import logging
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import jax
import numpy as np
from training.run import train

import data
from training import checkpoint, loop, step

STEPS = 3  # in an epoch
VIEWS = ("weak", "strong", "partner", "previous")


def order(config: dict) -> dict:
    """What seven batches hold, bit for bit: steps of epochs 0 and 2, with every kind of view and all augmentations."""
    split = data.load("Digits").train
    augmentation = data.Augmentation(pad=1, mode="zero", flip=True, mixup=0.5, **config)
    table, images, labels = step.replicate((data.class_table(split.labels), split.images, split.labels))
    compute = jax.jit(
        lambda s, number: step.batch_of(s, number, augmentation, ("weak", "strong", "partner", "previous"))
    )
    found = {}
    for epoch in (0, 2):
        index, view = data.epoch_plan(3, epoch, np.arange(len(split), dtype=np.int32), STEPS * 40, 40)
        shape = (1 + STEPS, 40)
        plan = step.replicate((np.asarray(3, np.int32), index.reshape(shape), view.reshape(shape)))
        for number in range(STEPS):
            batch = compute(
                step.DeviceSplit(images, labels, *plan, table), np.asarray(epoch * STEPS + number, np.int32)
            )
            if jax.device_count() > 1:
                assert len({str(shard.index) for shard in batch.image.addressable_shards}) == jax.device_count()
            leaves = jax.tree_util.tree_leaves_with_path(batch)
            found |= {f"{epoch} {number} {jax.tree_util.keystr(p)}": np.asarray(x).tobytes().hex() for p, x in leaves}
    return found


class Compilations(logging.Handler):
    """The lines of JAX's log that say what was compiled."""

    lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class Watched(step.Trainer):
    """A trainer that notes what a test of placements asks about."""

    last = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.donated, self.specs = [], set()
        Compilations.lines.clear()
        Watched.last = self

    def __call__(self, states, totals, splits, count=1):
        given = [x for s in states for x in jax.tree.leaves((s.params, s.extra, s.opt_state))]
        result = super().__call__(states, totals, splits, count)
        self.donated.append(all(x.is_deleted() for x in given))
        memory = result[0][0].extra.get("method", {}).get("memory", {})
        self.specs |= {f"{name} {tuple(x.sharding.spec)}" for name, x in memory.items()}
        return result

    def notes(self) -> dict:
        name = "steps" if self.many else "step"
        calls = (self._steps if self.many else self.step)._cache_size()
        compiled = sum(f"Finished XLA compilation of jit({name}) " in line for line in Compilations.lines)
        return {"calls": calls, "compiled": compiled, "donated": self.donated, "memory": sorted(self.specs)}


def main(jobs: list[dict]) -> list:
    """One result a job."""
    loop.Trainer = Watched
    logging.getLogger("jax._src.dispatch").addHandler(Compilations())
    logging.getLogger("jax._src.dispatch").setLevel(logging.DEBUG)
    save, results = checkpoint.Checkpoints.save, []

    def stopping(self, at, now, *arguments):
        if now == at:
            signal.raise_signal(signal.SIGTERM)
        return save(self, now, *arguments)

    for job in jobs:
        if "order" in job:
            results.append(order(job["order"]))
            continue

        checkpoint.Checkpoints.save = functools.partialmethod(stopping, job.get("stop_at"))
        try:
            train(job["train"], quiet=True)
            assert "stop_at" not in job
        except loop.Interrupted:
            assert "stop_at" in job
        results.append(Watched.last.notes())
    return results


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    assert jax.device_count() == int(sys.argv[1])
    print(json.dumps(main(json.loads(sys.argv[2]))))
    sys.stdout.flush()
    os._exit(0)
