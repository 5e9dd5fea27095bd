"""Runs jobs on COUNT virtual devices, for tests that compare device counts. Prints the results as JSON.

python many_devices.py COUNT '[{"order": {}}, {"alone": {...}}, {"groups": {...}}, {"train": {...}, "stop_at": 5}]'
"""

import functools
import json
import logging
import os
import pathlib
import signal
import sys
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import jax
import numpy as np

import data
import models
import tasks
from configs.resolve import resolve
from signals import Interrupted
from studies import hlo, targets
from training import builder, checkpoint
from training.builder import Builder
from training.devices import Devices, here
from training.train import train
from training.update import Update

STEPS = 3  # in an epoch
VIEWS = ("weak", "strong", "partner", "previous")


def order(config: dict) -> dict:
    """What seven batches hold, bit for bit: steps of epochs 0 and 2, with every kind of view and all augmentations."""
    split = data.load("Digits").train
    augmentation = data.Augmentation(1, "zero", True, trivialaugment=True, random_erasing=0.5, mixup=0.5, **config)
    strategy = types.SimpleNamespace(views=VIEWS, task=tasks.create("classification"))
    update, place = Update(strategy, augmentation, here()), here().place
    table, images, labels = place((data.class_table(split.labels), split.images, split.labels))
    compute = jax.jit(update.batch)
    found = {}
    for epoch in (0, 2):
        index, view = data.epoch_plan(3, epoch, np.arange(len(split), dtype=np.int32), STEPS * 40, 40)
        shape = (1 + STEPS, 40)
        plan = place((np.asarray(3, np.int32), np.reshape(index, shape), np.reshape(view, shape)))
        for number in range(STEPS):
            batch = compute(
                data.DeviceSplit(images, labels, *plan, table), np.asarray(epoch * STEPS + number, np.int32)
            )
            if jax.device_count() > 1:
                assert len({str(shard.index) for shard in batch.image.addressable_shards}) == jax.device_count()
            assert not (epoch == number == 0) or streamed(split, update, batch)
            batch = batch.replace(key=jax.random.key_data(batch.key))
            leaves = jax.tree_util.tree_leaves_with_path(batch)
            found |= {f"{epoch} {number} {jax.tree_util.keystr(p)}": np.asarray(x).tobytes().hex() for p, x in leaves}
    return found


def streamed(split, update, expected) -> bool:
    """Whether the first batch has the same bits if each device is fed its own rows, of all devices or half of them."""
    plan = data.Plans(3, np.arange(len(split), dtype=np.int32), 3 * STEPS, STEPS, 40)
    parts = split.labels, np.asarray(3, np.int32), *plan(0), data.class_table(split.labels)
    rows, fed = data.DeviceSplit(None, *here().place(parts)), []
    for devices in (here().devices, here().devices[::2]):
        sharding = Devices(devices).rows
        stream = data.Stream(split, split.labels, plan, views=VIEWS, least=0.0, sharding=sharding, threads=2)
        fed.append(stream.feed(rows, 0))
        assert {len(x.sharding.device_set) for x in fed[-1].pictures} == {len(devices)}
    jax.tree.map(np.testing.assert_array_equal, *(one.pictures for one in fed))
    batch = jax.jit(update.batch)(fed[0], np.asarray(0, np.int32))
    pairs = zip(jax.tree.leaves(batch.replace(key=None)), jax.tree.leaves(expected.replace(key=None)), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def alone(recipe: dict) -> list[dict]:
    """For each device by itself: the devices that the state lies on after two updates, and the parameters' bits."""
    found = []
    for device in jax.devices():
        parts = Builder(resolve(recipe)[0], say=lambda text: None)
        parts.devices = Devices((device,))
        shared = parts.shared(pathlib.Path(recipe["train_path"]))
        (replica,) = parts.replicas(shared)
        (state,), _ = shared.update([replica.state], [replica.totals], [replica.split], 2)
        places = {str(place) for leaf in jax.tree.leaves(state) for place in leaf.devices()}
        bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params))
        found.append({"device": str(device), "places": sorted(places), "bits": bits.hex()})
    return found


def groups(recipe: dict) -> dict:
    """Batch norms with the statistics of each device.

    Returns:
        - "states": the numbers after two updates on all devices, and on one device with as many groups of rows.
        - "collectives": how many an update has, with these statistics and with those of all devices.
    """
    found = {"states": [], "collectives": []}
    for chips in (1, 0):
        parts = Builder(resolve({**recipe, "batch_norm_chips": chips})[0], say=lambda text: None)
        update = parts.update(parts.strategy)
        text = targets.lower(update, targets.arguments(parts, update), 1).compile().as_text()
        found["collectives"].append(sum(kind["count"] for kind in hlo.Program(text).collectives.values()))
    for devices in (here(), Devices(here().devices[:1])):
        parts = Builder(resolve({**recipe, "batch_norm_chips": 1})[0], say=lambda text: None)
        parts.devices = devices
        shared = parts.shared(pathlib.Path(recipe["train_path"]))
        (replica,) = parts.replicas(shared)
        (state,), _ = shared.update([replica.state], [replica.totals], [replica.split], 2)
        leaves = jax.tree.leaves((state.params, state.extra))
        found["states"].append([np.asarray(leaf, np.float64).ravel().tolist() for leaf in leaves])
    return found


class Compilations(logging.Handler):
    """The lines of JAX's log that say what was compiled."""

    lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class Watched(Update):
    """An update that notes what a test of placements asks about."""

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
        program = self.several if self.many else self.step
        compiled = sum(f"Finished XLA compilation of jit({program.__name__}) " in line for line in Compilations.lines)
        calls = program._cache_size()
        return {"calls": calls, "compiled": compiled, "donated": self.donated, "memory": sorted(self.specs)}


def main(jobs: list[dict]) -> list:
    """One result a job."""
    builder.Update = Watched
    logging.getLogger("jax._src.dispatch").addHandler(Compilations())
    logging.getLogger("jax._src.dispatch").setLevel(logging.DEBUG)
    save, results = checkpoint.Checkpoints.save, []

    def stopping(self, at, now, *arguments, **options):
        if now == at:
            signal.raise_signal(signal.SIGTERM)
        return save(self, now, *arguments, **options)

    for job in jobs:
        if "order" in job:
            results.append(order(job["order"]))
            continue
        if "alone" in job:
            results.append(alone(job["alone"]))
            continue
        if "groups" in job:
            results.append(groups(job["groups"]))
            continue
        checkpoint.Checkpoints.save = functools.partialmethod(stopping, job.get("stop_at"))
        try:
            train(job["train"], quiet=True)
            assert "stop_at" not in job
        except Interrupted:
            assert "stop_at" in job
        results.append(Watched.last.notes())
    return results


if __name__ == "__main__":
    models.xla_cpu.prepare()
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    assert jax.device_count() == int(sys.argv[1])
    print(json.dumps(main(json.loads(sys.argv[2]))))
    sys.stdout.flush()
    os._exit(0)
