"""The library's training step, as training runs it. Only this file of the benchmarks imports the engine."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import data
import distiller
import models
import transfer
from configs import command
from configs.default import get_config
from data.stored import DeviceBank
from models import profile
from models.folding import fold
from training.devices import here
from training.update import Totals, Update
from transfer import optimizer

VIEWS = 4
AUGMENTATION = data.Augmentation(pad=4, flip=True)
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def alone(*arguments, **options) -> "OurStep":
    """Makes an `OurStep` in a process of its own. First tunes the process for a CPU, as training does."""
    command.tune()
    return OurStep(*arguments, **options)


class OurStep:
    """The library's step on a split of random images. The parts of the step are built on first use.

    Args:
        images: [N, 32, 32, 3] uint8; labels: [N] int32.
        batch: images a step.
        teacher: the teacher's network, with random weights; empty: the student learns from labels alone.
        student: the student's network.
        method: the distillation method, if there is a teacher; options: the method's fields.
        dtype: compute type of both networks.
        seeds: number of replicas that `updates` trains, as a run with `--seeds` does.
    """

    def __init__(
        self,
        images,
        labels,
        batch: int,
        *,
        teacher: str = "ResNet56",
        student: str = "ResNet20",
        method: str = "SoftLogits",
        options: dict | None = None,
        dtype: str = "float32",
        seeds: int = 1,
    ):
        self.arrays, self.batch, self.seeds = (images, labels), batch, seeds
        self.classes, self.steps = int(labels.max()) + 1, len(labels) // batch
        self._sample = jax.jit(lambda split, step: split.batch(step, AUGMENTATION, ("weak",)))
        self._order = self._order_of(0)
        arrays = (jnp.asarray(images), jnp.asarray(labels), jnp.asarray(0))
        self.split = here().place(data.DeviceSplit(*arrays, *self._order))
        self._first = self._sample(self.split, jnp.asarray(0))

        def player(role, arch):
            return transfer.Player(role, models.create(arch, self.classes, dtype=jnp.dtype(dtype)), MEAN, STD)

        parts = {"student": player("student", student), "optimizer": optimizer.create(get_config(), self.steps)}
        if teacher:
            parts["teacher"] = player("teacher", teacher)
            weights = jax.jit(parts["teacher"].init)(jax.random.key(0), self._first.image)
            parts["teacher_variables"] = fold(parts["teacher"].model, jax.device_get(weights), (32, 32, 3))
            parts["method"] = distiller.create(method, **(options or {}))
        self.strategy = transfer.create("Offline" if teacher else "Labels", **parts)
        self._step = Update(self.strategy, AUGMENTATION, here()).step
        self.state, self.totals = self._start(self._first)

    def _order_of(self, seed: int):
        everything = jnp.arange(len(self.arrays[1]), dtype=jnp.int32)
        index, view = data.epoch_plan(seed, 0, everything, self.steps * self.batch, self.batch)
        return index.reshape(-1, self.batch), view.reshape(-1, self.batch)

    def _start(self, batch: data.Batch):
        """Returns the first state, and empty sums of its metrics."""
        key = jax.random.key(0)
        state = here().place(jax.jit(self.strategy.init)(key, batch))
        names = jax.eval_shape(self.strategy.traced_step, state, batch, key)[1]
        return state, here().place(Totals.empty(names))

    def step(self):
        """Does one update."""
        self.state, self.totals = self._step(self.state, self.totals, self.split)
        jax.block_until_ready(self.totals)

    def banked(self):
        """Does one update that reads the teacher's logits from a bank."""
        split, *update = self._bank
        self._bank = split, *jax.block_until_ready(self._step(*update, split))

    @functools.cached_property
    def _bank(self):
        """The split with a bank, the state, and the sums of the metrics."""
        index, view = self._order
        logits = np.random.RandomState(1).standard_normal((VIEWS, len(self.arrays[1]), self.classes))
        bank = DeviceBank(jnp.asarray(logits.astype(np.float16)), classes=self.classes)
        fixed = data.fixed_views(0, index.ravel(), view.ravel(), VIEWS).reshape(view.shape)
        bank, fixed = here().place((bank, fixed))
        split = self.split.replace(bank=bank, view=fixed)
        return split, *self._start(self._sample(split, jnp.asarray(0)))

    def teacher(self):
        """Runs the teacher's forward pass."""
        program, *arguments = self._teacher
        jax.block_until_ready(program(*arguments))

    @functools.cached_property
    def _teacher(self):
        teacher, frozen = self.strategy.teacher, jax.tree.map(jnp.copy, self.state.frozen["teacher"])
        return jax.jit(lambda v, image: teacher.forward(v, image)[0].logits), frozen, self._first.image

    def student(self):
        """Runs the student's forward and backward pass on labels."""
        program, *arguments = self._student
        jax.block_until_ready(program(*arguments))

    @functools.cached_property
    def _student(self):
        student, batch = self.strategy.student, self._first
        variables = jax.tree.map(jnp.copy, self.strategy.student_variables(self.state))

        def loss(params):
            outputs, stats = student.forward({**variables, "params": params}, batch.image, train=True)
            return self.strategy.task.loss(outputs, batch)[0], stats

        return jax.jit(jax.grad(loss, has_aux=True)), variables["params"]

    def augmentation(self):
        """Makes a random batch."""
        jax.block_until_ready(self._sample(self.split, jnp.asarray(1)))

    def updates(self, count: int) -> float:
        """Returns the seconds of `count` updates of all seeds: one call on devices where training makes one call."""
        update, *before = self._replicas
        start = time.perf_counter()
        after = jax.block_until_ready(update(*before, count))
        seconds = time.perf_counter() - start
        self._replicas = update, *after, before[-1]
        return seconds

    @functools.cached_property
    def _replicas(self):
        """The program of all seeds, and the seeds' states, sums and splits."""
        loops = here().loops
        update = Update(self.strategy, AUGMENTATION, here(), stacked=loops and self.seeds > 1, many=loops)
        own = [jax.tree.map(jnp.copy, (self.state, self.totals)) for _ in range(self.seeds)]
        splits = []
        for seed in range(self.seeds):
            index, view = self._order_of(seed)
            order = {"seed": np.asarray(seed, np.int32), "index": index, "view": view}
            splits.append(self.split.replace(**here().place(order)))
        return update, [state for state, _ in own], [totals for _, totals in own], splits

    def work(self) -> dict[str, float]:
        """Returns the work of one update of one seed: "flops" of convolutions and products, "bytes" counted by XLA.

        The bytes are NaN if the program calls another library, such as cuDNN: XLA does not count that library's bytes.
        """
        student, teacher = (profile.cost(p.model, (32, 32, 3)) for p in (self.strategy.student, self.strategy.teacher))
        flops = 2 * self.batch * (teacher.multiply_adds + 3 * student.multiply_adds)  # backward is twice forward
        program = self._step.lower(self.state, self.totals, self.split).compile()
        known = {} if "custom-call" in program.as_text() else program.cost_analysis() or {}
        return {"flops": flops, "bytes": known.get("bytes accessed", float("nan"))}

    def devices(self) -> str:
        """Returns the number of devices and their name."""
        return f"{here().count} x {here().devices[0].device_kind}"

    def seconds(self, steps: int, wait: bool) -> float:
        """Returns the seconds of `steps` steps. With `wait` each step is waited for; otherwise the steps are queued."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, self.totals = self._step(self.state, self.totals, self.split)
            if wait:
                jax.block_until_ready(self.totals)
        jax.block_until_ready(self.totals)
        return time.perf_counter() - start

    def host_overhead(self, steps: int = 20) -> float:
        """Returns the share of a step in which the device waits for Python, from steps one by one and queued steps."""
        pairs = [(self.seconds(steps, True), self.seconds(steps, False)) for _ in range(5)]
        return float(np.median([(one - queued) / one for one, queued in pairs]))
