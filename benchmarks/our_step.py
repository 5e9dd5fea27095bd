"""The library's distillation step, as training runs it, for `benchmarks/step.py`."""

import pathlib
import tempfile
import time

import numpy as np

from training import cpu

cpu.tune()

import jax  # noqa: E402  # after the flags
import jax.numpy as jnp  # noqa: E402

import data  # noqa: E402
import distiller  # noqa: E402
import models  # noqa: E402
import transfer  # noqa: E402
from models import profile  # noqa: E402
from models.folding import fold  # noqa: E402
from training import config as configs  # noqa: E402
from training import loop, optimizer  # noqa: E402
from training.bank import DeviceBank  # noqa: E402
from training.replicas import Replica  # noqa: E402
from training.step import DeviceSplit, Totals, Trainer, batch_of, replicate  # noqa: E402
from transfer.base import label_loss  # noqa: E402

VIEWS = 4
AUGMENTATION = data.Augmentation(pad=4, flip=True)


class OurStep:
    """The library's step on a split of random images.

    Args:
        images: [N, 32, 32, 3] uint8; labels: [N] int32.
        batch: images a step.
        dtype: compute type of both networks.
        seeds: replicas that `updates` trains, as a run with `--seeds` does.
    """

    def __init__(self, images, labels, batch: int, *, dtype: str = "float32", seeds: int = 1):
        classes, dtype = int(labels.max()) + 1, jnp.dtype(dtype)
        mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
        student = transfer.Player("student", models.create("ResNet20", classes, dtype=dtype), mean, std)
        teacher = transfer.Player("teacher", models.create("ResNet56", classes, dtype=dtype), mean, std)
        steps = len(labels) // batch
        index, view = data.epoch_plan(0, 0, jnp.arange(len(labels), dtype=jnp.int32), steps * batch, batch)
        shape = (1 + steps, batch)
        split = (jnp.asarray(images), jnp.asarray(labels), jnp.asarray(0), index.reshape(shape), view.reshape(shape))
        self.arrays, self.batch, self.mean, self.std = (images, labels), batch, mean, std
        self.split = replicate(DeviceSplit(*split))
        sample = jax.jit(batch_of, static_argnums=2)
        key = jax.random.key(0)
        batch_0 = sample(self.split, jnp.asarray(0), AUGMENTATION)
        weights = jax.jit(teacher.init)(key, batch_0.image)
        self.strategy = strategy = transfer.create(
            "Offline",
            student=student,
            teacher=teacher,
            teacher_variables=fold(teacher.model, jax.device_get(weights), (32, 32, 3)),
            method=distiller.create("SoftLogits"),
            optimizer=optimizer.create(configs.defaults(), steps),
        )
        self.state = replicate(jax.jit(strategy.init)(key, batch_0))
        names = jax.eval_shape(strategy.traced_step, self.state, batch_0, key)[1]
        self.totals = replicate(Totals.empty(names))
        self._step = Trainer(strategy, AUGMENTATION).step
        accelerated = jax.default_backend() != "cpu"
        self._train = Trainer(strategy, AUGMENTATION, stacked=accelerated and seeds > 1, many=accelerated)
        self.seeds, self._replicas = seeds, None  # states, totals and splits, by the first call of `updates`
        logits = np.random.RandomState(1).standard_normal((VIEWS, len(labels), classes)).astype(np.float16)
        fixed = data.fixed_views(0, index, view, VIEWS).reshape(shape)
        bank = DeviceBank(jnp.asarray(logits), classes=classes)
        self.banked_split = self.split.replace(bank=replicate(bank), view=replicate(fixed))
        batch_0_banked = sample(self.banked_split, jnp.asarray(0), AUGMENTATION)
        self.banked_state = replicate(jax.jit(strategy.init)(key, batch_0_banked))
        self.banked_totals = replicate(Totals.empty(names))
        variables = jax.tree.map(jnp.copy, strategy.student_variables(self.state))
        frozen = jax.tree.map(jnp.copy, self.state.frozen["teacher"])

        def student_loss(params):
            outputs, stats = student.forward({**variables, "params": params}, batch_0.image, train=True)
            return label_loss(outputs.logits, batch_0.label)[0], stats

        gradient = jax.jit(jax.grad(student_loss, has_aux=True))
        predict = jax.jit(lambda v, image: teacher.forward(v, image)[0].logits)
        self.student = lambda: jax.block_until_ready(gradient(variables["params"]))
        self.teacher = lambda: jax.block_until_ready(predict(frozen, batch_0.image))
        self.augmentation = lambda: jax.block_until_ready(sample(self.split, jnp.asarray(1), AUGMENTATION))

    def step(self):
        """One update."""
        self.state, self.totals = self._step(self.state, self.totals, self.split)
        jax.block_until_ready(self.totals)

    def banked(self):
        """One update with the teacher's logits out of a bank."""
        update = self._step(self.banked_state, self.banked_totals, self.banked_split)
        self.banked_state, self.banked_totals = update
        jax.block_until_ready(self.banked_totals)

    def updates(self, count: int) -> float:
        """Seconds of so many updates of all seeds, in one call where training does so."""
        if not self._replicas:
            own = [jax.tree.map(jnp.copy, (self.state, self.totals)) for _ in range(self.seeds)]
            splits = [self.split.replace(seed=replicate(np.asarray(s, np.int32))) for s in range(self.seeds)]
            self._replicas = [state for state, _ in own], [totals for _, totals in own], splits
        states, totals, splits = self._replicas
        start = time.perf_counter()
        states, totals = jax.block_until_ready(self._train(states, totals, splits, count))
        seconds = time.perf_counter() - start
        self._replicas = states, totals, splits
        return seconds

    def work(self) -> dict[str, float]:
        """Of one update of one seed: "flops" of convolutions and products, and the "bytes" that XLA counts.

        Those are NaN where the program calls another library, such as cuDNN: XLA does not count its part.
        """
        student, teacher = (profile.cost(p.model, (32, 32, 3)) for p in (self.strategy.student, self.strategy.teacher))
        flops = 2 * self.batch * (teacher.multiply_adds + 3 * student.multiply_adds)  # backward is twice forward
        program = self._step.lower(self.state, self.totals, self.split).compile()
        known = {} if "custom-call" in program.as_text() else program.cost_analysis() or {}
        return {"flops": flops, "bytes": known.get("bytes accessed", float("nan"))}

    def devices(self) -> str:
        """How many, and their name."""
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"

    def seconds(self, steps: int, wait: bool) -> float:
        """Of so many steps, waited for one by one or queued."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, self.totals = self._step(self.state, self.totals, self.split)
            if wait:
                jax.block_until_ready(self.totals)
        jax.block_until_ready(self.totals)
        return time.perf_counter() - start

    def host_overhead(self, steps: int = 20) -> float:
        """Share of a step in which Python holds the device up: steps waited for one by one against a queue of them."""
        pairs = [(self.seconds(steps, True), self.seconds(steps, False)) for _ in range(5)]
        return float(np.median([(one - queued) / one for one, queued in pairs]))

    def run_rate(self, steps: int = 150) -> float:
        """Images/s of a whole run of the engine: the same step with order, log lines and a run folder around it."""
        images, labels = self.arrays
        count = steps * self.batch
        repeat = np.arange(count) % len(labels)
        train = data.Split.of(images[repeat], labels[repeat])
        test = data.Split.of(images[: self.batch], labels[: self.batch])
        names = tuple(str(k) for k in range(int(labels.max()) + 1))
        dataset = data.Dataset("CIFAR100", train, test, names, self.mean, self.std, AUGMENTATION)
        config = configs.merge({"train_epoch": 1, "batch_size": self.batch})
        with tempfile.TemporaryDirectory() as folder:
            everything = np.arange(count, dtype=np.int32)
            summary = loop.run(
                folder=pathlib.Path(folder),
                config=config,
                dataset=dataset,
                strategy=self.strategy,
                augmentation=AUGMENTATION,
                replicas=[Replica(0, pathlib.Path(folder), everything, train.labels)],
                teacher_answers=None,
                info={},
                others={},
                start=time.monotonic(),
                quiet=True,
            )
        return summary["images_per_second"]
