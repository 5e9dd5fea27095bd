"""The loop above the compiled step: order, log lines, evaluation, checkpoints, signals. Plain Python."""

import contextlib
import os
import pathlib
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

import data
import pretrained
from models import profile
from registry import NonFiniteError, UserError
from training import run_folder
from training.checkpoint import Checkpoints
from training.metrics import evaluate
from training.step import DeviceSplit, Predictor, batch_of, empty_totals, replicate, train_step
from training.writers import MetricsLog, Progress
from transfer import Strategy


class Interrupted(UserError):
    """A signal arrived; the run is saved and the same command continues it."""

    exit_code = 75


class Loop:
    """One run in progress.

    Args: see `run`.
    """

    def __init__(self, *, folder, config, dataset, strategy, augmentation, pool, labels, predict, teacher_logits, info):
        self.folder: pathlib.Path = folder
        self.config: ConfigDict = config
        self.dataset: data.Dataset = dataset
        self.strategy: Strategy = strategy
        self.augmentation = augmentation
        self.predict: Predictor = predict
        self.teacher_logits = teacher_logits
        self.info = info
        self.steps_per_epoch = len(dataset.train) // config.batch_size
        self.total = config.train_epoch * self.steps_per_epoch
        self.pool = replicate(pool)
        self.images, self.labels = replicate(dataset.train.images), replicate(labels)
        self.step = 0
        self.seconds = 0.0  # of training, over all resumes, without compiling
        self.tests: list[dict] = []  # one row an evaluation
        self.state = self.totals = self.best = self.split = None  # set by `start`

    def load_epoch(self) -> None:
        """Puts the order of the current epoch on the device."""
        config = self.config
        length = self.steps_per_epoch * config.batch_size
        index, view = data.epoch_plan(config.seed, self.step // self.steps_per_epoch, self.pool, length)
        shape = (self.steps_per_epoch, config.batch_size)
        seed = replicate(jnp.asarray(config.seed, jnp.int32))
        self.split = DeviceSplit(self.images, self.labels, seed, index.reshape(shape), view.reshape(shape))

    def start(self, checkpoints: Checkpoints) -> int:
        """Fresh or restored state; returns the bytes of `metrics.jsonl` that belong to it."""
        self.load_epoch()
        key = jax.random.fold_in(jax.random.key(self.config.seed), 3)
        batch = jax.jit(batch_of, static_argnums=2)(self.split, jnp.zeros((), jnp.int32), self.augmentation)
        self.state = replicate(jax.jit(self.strategy.init)(key, batch))
        shapes = jax.eval_shape(self.strategy.step, self.state, batch, key)[1]
        self.totals = replicate(empty_totals(shapes))
        self.best = _copy(self.strategy.student_variables(self.state))
        found = checkpoints.restore(self._saved())
        if found is None:
            return 0
        tree, notes = found
        frozen = self.state.frozen
        self.state, self.totals, self.best = replicate(tree)
        self.state = self.state.replace(frozen=frozen)
        self.step, self.seconds, self.tests = notes["step"], notes["seconds"], notes["tests"]
        if self.step < self.total:
            self.load_epoch()
        return notes["position"]

    def _saved(self):
        return self.state.replace(frozen={}), self.totals, self.best

    def save(self, checkpoints: Checkpoints, log: MetricsLog) -> None:
        self.check_finite()
        log.sync()
        notes = {"step": self.step, "seconds": self.seconds, "tests": self.tests, "position": log.position}
        checkpoints.save(self.step, self._saved(), notes)

    def check_finite(self) -> None:
        """Raises `NonFiniteError` with the names of what is not finite in what a checkpoint would hold."""
        finite = jax.device_get(_finite(self._saved()))
        bad = [jax.tree_util.keystr(path) for path, ok in jax.tree_util.tree_leaves_with_path(finite) if not ok]
        if bad:
            raise NonFiniteError(
                f"{bad[0]} (of {len(bad)}) became non-finite before step {self.step}; nothing was saved.\n"
                f"The last checkpoint in {self.folder} is from before. Try a lower --learning_rate."
            )

    def log(self, log: MetricsLog) -> dict[str, float]:
        """Writes the means since the last log line and empties them; raises on what is not finite."""
        values = {name: float(total.compute()) for name, total in jax.device_get(self.totals).items()}
        correct, labelled = values.pop("correct"), values.pop("labelled")
        if labelled:
            values["top1"] = 100 * correct / labelled
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"{', '.join(bad)} became non-finite in the {self.config.log_every} steps up to step {self.step}.\n"
                f"The last checkpoint in {self.folder} is from before. Try a lower --learning_rate."
            )
        self.totals = replicate(empty_totals(self.totals))
        log.write("train", self.step, self.step / self.steps_per_epoch, values)
        return values

    def test(self, log: MetricsLog) -> dict[str, float]:
        """Evaluates the student and keeps the best weights."""
        variables = self.strategy.student_variables(self.state)
        values = evaluate(self.predict(variables), self.dataset.test.labels, self.teacher_logits)
        if not self.tests or values["top1"] > max(row["top1"] for row in self.tests):
            self.best = _copy(variables)
        self.tests.append({"epoch": self.step // self.steps_per_epoch, **values})
        log.write("test", self.step, self.step / self.steps_per_epoch, values)
        return values

    def keep(self) -> None:
        """Writes the weights of the epoch that ended to `epochs/`; made again after a resume, they are the same."""
        epoch = self.step // self.steps_per_epoch
        tested = [row for row in self.tests if row["epoch"] == epoch]
        top1 = tested[0]["top1"] if tested else None
        info = {**self.info, "epoch": epoch, "test_top1": top1}
        variables = self.strategy.student_variables(self.state)
        pretrained.save(self.folder / run_folder.EPOCHS / f"{epoch:04d}", jax.device_get(variables), info)

    def finish(self, log: MetricsLog, start_seconds: float, rate: float) -> dict:
        """Writes `last/`, `best/` and `summary.json`."""
        last, best = self.tests[-1], max(self.tests, key=lambda row: row["top1"])
        variables = self.strategy.student_variables(self.state)
        for name, weights, row in (("last", variables, last), ("best", self.best, best)):
            info = {**self.info, "test_top1": row["top1"], "test": row}
            pretrained.save(self.folder / name, jax.device_get(weights), info)
        summary = {
            "last": last,
            "best": best,
            "parameters": int(sum(x.size for x in jax.tree.leaves(variables["params"]))),
            "steps": self.step,
            "seconds": round(self.seconds, 2),
            "seconds_to_first_step": round(start_seconds, 2),
            "images_per_second": round(rate, 1),
        }
        run_folder.write_json(self.folder / run_folder.SUMMARY, summary)
        return summary


def run(*, start: float, quiet: bool = False, **parts) -> dict:
    """Trains to the end.

    Args:
        start: `time.monotonic()` at the start of the command.
        quiet: no progress.
        **parts: folder (locked), config (resolved), dataset, strategy, augmentation (static), pool ([P] int32),
            labels ([N] int32, withheld ones -1), predict (the student on the test split), teacher_logits ([N, K] on
            the test split, or None), info (what `model.json` shall say).

    Returns:
        The summary.

    Raises:
        Interrupted, NonFiniteError.
    """
    loop = Loop(**parts)
    config = loop.config
    checkpoints = Checkpoints(loop.folder)
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        position = loop.start(checkpoints)
        earlier = loop.seconds
        log = MetricsLog(loop.folder, position, loop.step)
        stack.callback(log.close)
        stopping = stack.enter_context(_signals())
        if not quiet:
            _header(loop)
        progress = Progress(loop.folder.name, loop.total)
        step = train_step(loop.strategy, loop.augmentation)
        clock = _Clock(loop.step)
        terms, test, start_seconds, rate, saved = {}, {}, 0.0, 0.0, time.monotonic()
        while loop.step < loop.total:
            loop.state, loop.totals = step(loop.state, loop.totals, loop.split)
            loop.step += 1
            done, first = loop.step == loop.total, not start_seconds
            log_now = done or loop.step % config.log_every == 0
            test_now = done or loop.step % (config.eval_every * loop.steps_per_epoch) == 0
            save_now = stopping.is_set() or time.monotonic() - saved >= config.checkpoint_seconds
            epoch_end = not done and loop.step % loop.steps_per_epoch == 0
            keep_now = config.keep_epochs and loop.step % (config.keep_epochs * loop.steps_per_epoch) == 0
            if not (first or log_now or test_now or save_now or epoch_end or keep_now):
                continue  # nothing between steps: the device is not waited for
            jax.block_until_ready(loop.totals)
            clock.pause(loop.step, warm=not first)
            rate = clock.rate * config.batch_size
            if first:
                start_seconds = time.monotonic() - start
            if log_now:
                terms = loop.log(log)
                log.board("speed/images_per_second", rate, loop.step)
            if test_now:
                result = loop.test(log)
                test = {"top1": result["top1"], "best": max(row["top1"] for row in loop.tests)}
            if keep_now:  # before a checkpoint of this step, which would not come back here
                loop.keep()
            stop = stopping.is_set()  # asked anew: evaluating takes a while
            if log_now and not quiet:
                progress.show(loop.step, rate, config.batch_size, terms, test)
            if epoch_end:
                loop.load_epoch()
            if (save_now or stop) and not done:
                loop.seconds = clock.seconds + earlier
                loop.save(checkpoints, log)
                saved = time.monotonic()
            if stop and not done:
                raise Interrupted(
                    f"Interrupted at step {loop.step}; saved in {loop.folder}. The same command continues."
                )
            clock.resume(loop.step)
        loop.seconds = clock.seconds + earlier
        loop.save(checkpoints, log)
        return loop.finish(log, start_seconds, rate)


class _Clock:
    """Seconds spent training, without evaluating, saving, and the first step, which compiles."""

    def __init__(self, step: int):
        self.seconds, self._steps = 0.0, 0
        self.resume(step)

    def resume(self, step: int) -> None:
        self._mark, self._step = time.monotonic(), step

    def pause(self, step: int, warm: bool) -> None:
        if warm:
            self.seconds += time.monotonic() - self._mark
            self._steps += step - self._step

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self._steps / self.seconds if self._steps else 0.0


@contextlib.contextmanager
def _signals():
    """An Event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def handle(number, frame):
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@jax.jit
def _finite(tree):
    """Whether each leaf is finite throughout."""
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def _copy(tree):
    """Buffers of its own: the state's are donated to the next step."""
    return jax.tree.map(jnp.copy, tree)


def _header(loop: Loop) -> None:
    """What is about to be trained, in a few lines; the full parameter overview goes to the run folder."""
    params = loop.state.params
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    (loop.folder / "parameters.txt").write_text(overview + "\n")
    counts = ", ".join(
        f"{n} {parameter_overview.count_parameters(p):,}" for n, p in params.items() if jax.tree.leaves(p)
    )
    frozen = [f"{n} {parameter_overview.count_parameters(v['params']):,} frozen" for n, v in loop.state.frozen.items()]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"Parameters: {', '.join([counts, *frozen])}. Devices: {devices}. Run: {loop.folder}", flush=True)
    shape, teacher = loop.dataset.image_shape, getattr(loop.strategy, "teacher", None)
    student = profile.cost(loop.strategy.student.model, shape)
    print(profile.compare(profile.cost(teacher.model, shape), student) if teacher else f"Cost: {student}.", flush=True)
    if loop.step:
        print(f"Continuing at step {loop.step} of {loop.total}.", flush=True)
