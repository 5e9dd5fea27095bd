"""All that a run holds: the replicas' states, their order, logs, tests, weights and checkpoints."""

import dataclasses
import functools
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import data
import pretrained
from distiller import Composition
from registry import NonFiniteError
from training import hosts, run_folder
from training.bank import DeviceBank
from training.checkpoint import Checkpoints
from training.metrics import evaluate
from training.run_folder import SaveError, warn
from training.step import (
    DeviceSplit,
    Predictor,
    Totals,
    Trainer,
    batch_of,
    compile_ahead,
    place,
    placed,
    replicate,
    shapes,
    step_key,
)
from training.writers import MetricsLog
from transfer import Strategy

INIT_KEY = 3  # the stream of the seed that initial weights are drawn from
ADVICE = "Try a lower --learning_rate, or --on_nan skip."


@dataclasses.dataclass
class Replica:
    """One seed of a run.

    Attributes:
        seed: of everything random.
        folder: where its log and weights go: the run's, or one in it where there are several.
        pool: [P] int32, the examples to draw from.
        labels: [N] int32, withheld ones -1.
        tests: one row an evaluation.
        log: its `metrics.jsonl`, in the process that writes; None in the others.
        best: the student's best variables so far.
        bank: the teacher's logits (`training.bank.DeviceBank`); None where it is asked in the step.
    """

    seed: int
    folder: pathlib.Path
    pool: np.ndarray
    labels: np.ndarray
    tests: list[dict] = dataclasses.field(default_factory=list)
    log: MetricsLog | None = None
    best: dict | None = None
    bank: DeviceBank | None = None


class Replicas:
    """A run in progress: one replica a seed, each as if it were alone.

    Args: see `training.loop.run`.
    """

    def __init__(self, *, folder, config, dataset, strategy, augmentation, replicas, teacher_answers, info, others):
        self.folder: pathlib.Path = folder
        self.config: ConfigDict = config
        self.dataset: data.Dataset = dataset
        self.strategy: Strategy = strategy
        self.augmentation = augmentation
        self.replicas: list[Replica] = replicas
        self.teacher_answers = teacher_answers
        self.info, self.others = info, others
        self.steps_per_epoch = len(dataset.train) // config.batch_size
        self.epochs = strategy.epochs(config.train_epoch)
        self.total = self.epochs * self.steps_per_epoch
        self.order = (1 + self.steps_per_epoch, config.batch_size)  # an epoch's shape: led by a row of the one before
        self.images = replicate(dataset.train.images)
        self.test_images = replicate(dataset.test.images)
        self.labels = [replicate(replica.labels) for replica in replicas]
        table = data.class_table if "partner" in strategy.views else lambda labels: None
        self.banks = [None if replica.bank is None else replicate(replica.bank) for replica in replicas]
        self.classes = [replicate(table(replica.labels)) for replica in replicas]
        self.step = 0
        self.seconds = 0.0  # of training, over all resumes, without compiling
        self.states, self.totals, self.splits = [], [], []  # one a replica; set by `start`
        self.predictors: dict[str, Predictor] = {}
        self.extreme: dict[str, int] = {}  # loss term -> step since which its share of the gradient is extreme

    def load_epoch(self) -> None:
        """Puts the order of the current epoch on the device."""
        size = self.config.batch_size
        self.splits = []
        for replica, labels, classes, bank in zip(self.replicas, self.labels, self.classes, self.banks, strict=True):
            epoch, pool = self.step // self.steps_per_epoch, jnp.asarray(replica.pool)
            index, view = data.epoch_plan(replica.seed, epoch, pool, self.steps_per_epoch * size, size)
            if bank is not None:
                view = data.fixed_views(replica.seed, index, view, self.config.teacher_views)
            index, view = (np.asarray(rows).reshape(self.order) for rows in (index, view))  # here: nothing to compile
            order = replicate((np.asarray(replica.seed, np.int32), index, view))
            self.splits.append(DeviceSplit(self.images, labels, *order, classes, bank))

    def batch(self, split: DeviceSplit, step: jax.Array) -> data.Batch:
        """What update number `step` sees."""
        return batch_of(split, step, self.augmentation, self.strategy.views)

    def start(self, checkpoints: Checkpoints | None, train: Trainer) -> list[int]:
        """Fresh or restored states; returns the bytes of each replica's `metrics.jsonl` that belong to them.

        Args:
            checkpoints: where they are read; None in a process that does not write, which gets what the first one read.
            train: what will be called next; begins to compile it.
        """
        examples = len(self.dataset.train)

        @jax.jit
        def init(split):
            key = jax.random.fold_in(jax.random.key(split.seed), INIT_KEY)
            state = self.strategy.traced_init(key, self.batch(split, jnp.zeros_like(split.seed)))
            return placed(state.replace(frozen=dict.fromkeys(state.frozen)), examples)  # no weights in the program

        def metrics(state, split):
            batch, key = self.batch(split, state.step), step_key(split.seed, state.step)
            return self.strategy.traced_step(state, batch, key)[1]

        order = jax.ShapeDtypeStruct(self.order, jnp.int32)
        seed = jax.ShapeDtypeStruct((), jnp.int32)
        split = shapes(DeviceSplit(self.images, self.labels[0], seed, order, order, self.classes[0], self.banks[0]))
        state = jax.eval_shape(init, split)
        wait = compile_ahead(init, split)  # the short one first
        frozen = {name: self.strategy.frozen[name] for name in state.frozen}
        state = shapes(state.replace(frozen=frozen), examples)
        names = jax.eval_shape(metrics, state, split)
        train.begin(state, shapes(Totals.empty(names)), split)
        self.load_epoch()
        wait()
        for replica, split in zip(self.replicas, self.splits, strict=True):
            state = place(init(split), examples)
            self.states.append(state.replace(frozen=_copy(replicate(frozen))))
            self.totals.append(replicate(Totals.empty(names)))
            replica.best = _copy(self.strategy.student_variables(self.states[-1]))
        like, found = self._saved(), None
        with hosts.agreed():
            if checkpoints:
                found = checkpoints.restore(like, self._log_lengths())
        trees, notes = found or (None, None)
        notes = hosts.share(notes)
        if notes is None:
            return [0] * len(self.replicas)
        trees = hosts.share_arrays(trees, like)
        self.step, self.seconds = notes["step"], notes["seconds"]
        for i, (replica, tree) in enumerate(zip(self.replicas, trees, strict=True)):
            state, self.totals[i], replica.best = place(tree, examples)
            self.states[i] = state.replace(frozen=self.states[i].frozen)
            replica.tests = notes["tests"][i]
        if self.step < self.total:
            self.load_epoch()
        return notes["positions"]

    def _saved(self):
        replicas = zip(self.states, self.totals, self.replicas, strict=True)
        return [(state.replace(frozen={}), totals, replica.best) for state, totals, replica in replicas]

    def _log_lengths(self) -> dict[str, int]:
        """Each replica's `metrics.jsonl`, by its path in the run folder -> its bytes so far."""
        names = [(replica.folder / run_folder.METRICS).relative_to(self.folder) for replica in self.replicas]
        lengths = [replica.log.position if replica.log else 0 for replica in self.replicas]
        return {str(name): length for name, length in zip(names, lengths, strict=True)}

    def save(self, checkpoints: Checkpoints | None, must: bool = True) -> None:
        """Saves; a failed save only warns where it `must` not succeed, because a later one makes up for it.

        All processes call it together and fetch everything, so that all of them see what is not finite.
        """
        tree = jax.device_get(hosts.readable(self._saved()))
        self._check_finite([(state.params, state.extra, state.opt_state, state.step) for state, _, _ in tree])
        with hosts.agreed():
            if checkpoints:
                self._write(checkpoints, tree, must)

    def _write(self, checkpoints: Checkpoints, tree, must: bool) -> None:
        notes = {"step": self.step, "seconds": self.seconds, "tests": [r.tests for r in self.replicas]}
        notes["positions"] = [replica.log.position for replica in self.replicas]
        try:
            for replica in self.replicas:
                replica.log.sync()
            checkpoints.save(self.step, tree, notes, self._log_lengths())
        except SaveError as error:
            if must:
                raise
            warn(f"{error} The next save tries again.")

    def _check_finite(self, states: list) -> None:
        """Raises `NonFiniteError` with the names of what is not finite in what a checkpoint would hold."""
        leaves = jax.tree_util.tree_leaves_with_path(states)
        bad = [jax.tree_util.keystr(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
        if bad:
            raise NonFiniteError(
                f"{bad[0]} (of {len(bad)}) became non-finite before step {self.step}; nothing was saved.\n"
                f"The last checkpoint in {self.folder} is from before. {ADVICE}"
            )

    def check_terms(self) -> None:
        """Raises `NonFiniteError` if anything that was measured since the start is not finite: what, when, and why."""
        if self.config.on_nan == "skip":
            return
        for i, totals in enumerate(jax.device_get([totals.bad for totals in self.totals])):
            step = min(totals.values())
            if step <= self.step:
                names = [name for name, first in totals.items() if first == step]
                terms = [n for n in names if n not in ("loss", "gradient_norm")] or names
                raise NonFiniteError(
                    f"{', '.join(terms)} became non-finite in step {step}{self._cause(i, step - 1)}.\n"
                    f"The last checkpoint in {self.folder} is from before. {ADVICE}"
                )

    def _cause(self, number: int, step: int) -> str:
        """What a step read that was not finite: its batch is a function of its number alone."""
        there, self.step = self.step, step
        self.load_epoch()
        self.step = there

        @jax.jit
        def look(state, split, step):
            batch = self.batch(split, step)
            return placed((self.strategy.inspect(state, batch), batch.index))

        read, index = jax.device_get(look(self.states[number], self.splits[number], np.asarray(step, np.int32)))
        for name, values in read.items():
            rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if rows.any():
                index = index[rows]
                return f": the {name} is not finite for training image {', '.join(map(str, index[:3]))}"
        return ""

    def log(self) -> dict[str, float]:
        """Writes the means since the last log line and empties them; returns the first replica's."""
        shown = {}
        for i, replica in enumerate(self.replicas):
            totals = jax.device_get(self.totals[i])
            values = {n: float(a.total / a.count) for n, a in totals.averages.items() if a.count}
            correct, labelled = values.pop("correct", 0.0), values.pop("labelled", 0.0)
            if labelled:
                values["top1"] = 100 * correct / labelled
            if self.config.on_nan == "skip":
                values["skipped"] = int(totals.skipped)
            if isinstance(self.strategy.method, Composition):
                values.update(self.shares(i))
            self.totals[i] = replicate(Totals.empty(totals.averages, totals.skipped))
            self._row("train", replica, values)
            shown = shown or values
        return shown

    def shares(self, number: int) -> dict[str, float]:
        """Each loss term's share of the gradient at the last batch; warns where one stays extreme."""
        step = np.asarray(self.step - 1, np.int32)
        shares = jax.device_get(self._shares(self.states[number], self.splits[number], step))
        if number == 0 and self.step > self.strategy.method.first_phase_epochs * self.steps_per_epoch:
            for name, share in shares.items():
                if not 0.01 <= share <= 0.99:
                    since = self.extreme.setdefault(name, self.step)
                    if 0 <= since <= self.step - 100:
                        self.extreme[name] = -1  # said once
                        warn(
                            f"{name} has had {100 * share:.2g} % of the gradient since step {since}. "
                            "Its weight in --config.distiller_options may not be what you want."
                        )
                elif self.extreme.get(name, -1) >= 0:
                    del self.extreme[name]
        return {f"share/{name}": float(share) for name, share in shares.items()}

    @functools.cached_property
    def _shares(self):
        @jax.jit
        def shares(state, split, step):
            return placed(self.strategy.shares(state, self.batch(split, step), step_key(split.seed, step)))

        return shares

    def test(self, stopping: threading.Event | None = None) -> bool:
        """Evaluates all that learn, logs it and keeps each student's best weights.

        Returns:
            False, and nothing was changed, where `stopping` was set on the way.
        """
        teacher_logits = None
        if self.teacher_answers:
            teacher_logits = self.teacher_answers.logits(stopping)
            if teacher_logits is None:
                return False
        answers = []
        for state in self.states:
            answers.append({})
            for name, (player, variables) in {**self.strategy.learners(state), **self.strategy.tested(state)}.items():
                if name not in self.predictors:
                    self.predictors[name] = Predictor(player, self.test_images)
                answers[-1][name] = self.predictors[name](variables, stopping)
                if answers[-1][name] is None:
                    return False
        for state, replica, logits in zip(self.states, self.replicas, answers, strict=True):
            values = evaluate(logits["student"], self.dataset.test.labels, teacher_logits)
            for name, theirs in {**logits, **self.strategy.ensembles(logits)}.items():
                if name != "student":
                    measured = evaluate(theirs, self.dataset.test.labels)
                    values[f"{name}/top1"], values[f"{name}/nll"] = measured["top1"], measured["nll"]
            replica.tests.append({"epoch": self.step // self.steps_per_epoch, **values})
            if self.best_test(replica) is replica.tests[-1]:
                replica.best = _copy(self.strategy.student_variables(state))
            self._row("test", replica, values)
        return True

    def tested(self) -> dict[str, float]:
        """The first replica's last and best test accuracy so far."""
        first = self.replicas[0]
        return {"top1": first.tests[-1]["top1"], "best": self.best_test(first)["top1"]} if first.tests else {}

    def best_test(self, replica: Replica) -> dict:
        """The first of the tests with the highest accuracy, among those that count where there are any."""
        counted = self.strategy.best_after(self.config.train_epoch)
        rows = [row for row in replica.tests if row["epoch"] > counted] or replica.tests
        return max(rows, key=lambda row: row["top1"])

    def _row(self, kind: str, replica: Replica, values: dict[str, float]) -> None:
        if replica.log:
            replica.log.write(kind, self.step, self.step / self.steps_per_epoch, values)

    def keep(self) -> None:
        """Writes the weights of the epoch that ended to `epochs/`; made again after a resume, they are the same.

        In the process that writes.
        """
        epoch = self.step // self.steps_per_epoch
        for state, replica in zip(self.states, self.replicas, strict=True):
            tested = [row["top1"] for row in replica.tests if row["epoch"] == epoch]
            info = {**self.info, "seed": replica.seed, "epoch": epoch, "test_top1": tested[0] if tested else None}
            weights = jax.device_get(self.strategy.student_variables(state))
            pretrained.save(replica.folder / run_folder.EPOCHS / f"{epoch:04d}", weights, info)

    def finish(self, start_seconds: float, rate: float) -> dict:
        """Writes the weights and `summary.json` of each replica, and of all of them; in the process that writes."""
        speed = {
            "steps": self.step,
            "seconds": round(self.seconds, 2),
            "seconds_to_first_step": round(start_seconds, 2),
            "images_per_second": round(rate, 1),
        }
        summaries = []
        for state, replica in zip(self.states, self.replicas, strict=True):
            last, best = replica.tests[-1], self.best_test(replica)
            learners = self.strategy.learners(state)
            student = learners.pop("student")[1]
            kept = [("last", student, last), ("best", replica.best, best)]
            for name, weights, row in kept:
                info = {**self.info, "seed": replica.seed, "test_top1": row["top1"], "test": row}
                pretrained.save(replica.folder / name, jax.device_get(weights), info)
            for name, (player, variables) in learners.items():
                test = {key.partition("/")[2]: last[key] for key in last if key.startswith(f"{name}/")}
                info = {**self.info, **self.others.get(name, {}), "seed": replica.seed}
                info |= {"mean": list(player.mean), "std": list(player.std), "test_top1": test["top1"], "test": test}
                pretrained.save(replica.folder / name, jax.device_get(variables), info)
            parameters = int(sum(x.size for x in jax.tree.leaves(student["params"])))
            summaries.append({"last": last, "best": best, "parameters": parameters, **speed})
            if self.config.on_nan == "skip":
                summaries[-1]["skipped"] = int(self.totals[len(summaries) - 1].skipped)
            run_folder.write_json(replica.folder / run_folder.SUMMARY, summaries[-1])
        if len(self.replicas) == 1:
            return summaries[0]
        seeds = [replica.seed for replica in self.replicas]
        summary = {**over_seeds(summaries), "seeds": seeds, "parameters": summaries[0]["parameters"], **speed}
        run_folder.write_json(self.folder / run_folder.SUMMARY, summary)
        return summary


def over_seeds(summaries: list[dict]) -> dict:
    """{"last", "best": metric -> {"mean", "std"}} over several summaries; sample standard deviation."""

    def spread(values):
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}

    return {
        which: {name: spread([s[which][name] for s in summaries]) for name in summaries[0][which]}
        for which in ("last", "best")
    }


@jax.jit
def _copy(tree):
    """Buffers of its own: the state's are donated to the next step."""
    return jax.tree.map(jnp.copy, tree)
