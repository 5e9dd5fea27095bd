"""One seed of a run: its state, order of examples, log, tests and weights; and what the seeds of a run share."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import optax

import data
import hosts
import pretrained
from data.stored import DeviceBank
from files import write_json
from registry import NonFiniteError
from training import run_folder
from training.answers import Answers
from training.devices import Devices, copied
from training.run_folder import warn
from training.schedule import Schedule
from training.teachers import Teachers
from training.update import Totals, Update
from training.writers import MetricsLog
from transfer import State, Strategy

ANEW = "Start anew with a lower --learning_rate and another --train_path."
ADVICE = f"Continue with --on_nan skip, or s{ANEW[1:]}"
EXTREME, PATIENCE = (0.001, 0.999), 100  # usual shares of the gradient; steps outside before a warning


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the seeds of a run have in common.

    Attributes:
        folder: the run's folder.
        dataset: the dataset, with all splits.
        images: the images of the training split, on the devices; None: the split is streamed.
        stream: (labels, plan, bank) -> what feeds the updates of one seed (`data.Stream`, `data.InMemory`).
        least: smallest area of a random resized crop that the host makes; 0: it makes none.
        exams: the splits of the tests: the one that chooses the best weights, and last the test split.
        strategy: who teaches whom, and what labels mean.
        schedule: when tests, log lines and saved weights are due.
        update: the compiled functions.
        teachers: the trained networks with which the tests compare the student.
        batch_size: examples in an update.
        train_epoch: the recipe's epochs, without a method's first phase.
        teacher_views: number of fixed views of each image; 0: new views in every epoch.
        balanced: an epoch shows all classes equally often.
        learning_rate: updates done by the optimizer -> learning rate.
        info: the student's part of `model.json`, without its accuracy.
        others: name of a learner beside the student -> its own entries in `model.json`.
    """

    folder: pathlib.Path
    dataset: data.Dataset
    images: jax.Array | None
    stream: Callable
    least: float
    exams: tuple[data.Exam, ...]
    strategy: Strategy
    schedule: Schedule
    update: Update
    teachers: Teachers
    batch_size: int
    train_epoch: int
    teacher_views: int
    balanced: bool
    learning_rate: Callable
    info: dict
    others: dict

    @property
    def devices(self) -> Devices:
        """The devices that hold the arrays."""
        return self.update.devices

    @property
    def task(self):
        """The task, which says what labels mean."""
        return self.strategy.task

    @functools.cached_property
    def asked(self) -> dict[str, Answers]:
        """Name of a network -> its `Answers`; added at the network's first test."""
        return {}

    @functools.cached_property
    def warned(self) -> set[str]:
        """Loss terms whose share of the gradient has led to a warning."""
        return set()


class Replica:
    """One seed of a run, as if it were alone.

    Args:
        shared: what all seeds have in common.
        seed: the seed of all random numbers.
        folder: for the log and the weights: the run's folder, or a folder inside it if the run has several seeds.
        pool: [P] int32, indices of the examples to draw from.
        labels: [N] int32, -1 where withheld.
        bank: the teacher's logits (`data.stored.DeviceBank`); None if the step runs the teacher.

    Attributes:
        state, totals: those after the last update.
        tests: one row per test.
        best: the student's variables at its best test so far.
        log: the seed's `metrics.jsonl` in the first process; None in the others.
    """

    def __init__(
        self,
        shared: Shared,
        seed: int,
        folder: pathlib.Path,
        pool: np.ndarray,
        labels: np.ndarray,
        bank: DeviceBank | None = None,
    ):
        self.shared, self.seed, self.folder = shared, seed, folder
        place = shared.devices.place
        table = data.class_table(labels) if "partner" in shared.strategy.views else None
        held = None if shared.images is None else bank
        self._fixed = place((labels, np.asarray(seed, np.int32), table, held))
        sizes = shared.schedule.total, shared.schedule.steps_per_epoch, shared.batch_size, shared.teacher_views
        own = labels if shared.balanced else None
        self.plan = data.Plans(seed, pool, *sizes, own, "previous" in shared.strategy.views)
        self.stream = shared.stream(labels, self.plan, bank)
        self.tests: list[dict] = []
        self.log: MetricsLog | None = None
        self._extreme: dict[str, int] = {}  # loss term -> step since which its share of the gradient is extreme
        self.split = self.epoch_at(0)
        self.state, self.totals, self.best = self._start()

    def epoch_at(self, step: int) -> data.DeviceSplit:
        """Returns the data and the order that the updates read in the epoch that contains `step`."""
        shared, (labels, seed, table, bank) = self.shared, self._fixed
        plan = shared.devices.place(self.plan(step // shared.schedule.steps_per_epoch))
        return data.DeviceSplit(shared.images, labels, seed, *plan, table, bank)

    def load_epoch(self, step: int) -> None:
        """Takes the order of the epoch that contains `step`."""
        self.split = self.epoch_at(step)

    def _start(self) -> tuple[State, Totals, dict]:
        """Returns the first state, empty totals, and the first weights as the best so far."""
        shared, examples = self.shared, len(self.shared.dataset.train)
        first = self.stream.feed(self.split, 0)
        state = shared.devices.place(shared.update.first_state(first), examples)
        frozen = {name: shared.strategy.frozen[name] for name in state.frozen}
        state = state.replace(frozen=copied(shared.devices.place(frozen)))
        totals = shared.devices.place(Totals.empty(shared.update.metric_names(state, first)))
        return state, totals, copied(shared.strategy.student_variables(state))

    # The checkpoint holds what `saved` returns, and `restore` takes that back.

    def saved(self) -> tuple[State, Totals, dict]:
        """Returns the arrays that the next update and the results depend on."""
        return self.state.replace(frozen={}), self.totals, self.best

    def restore(self, saved: tuple, tests: list[dict], step: int) -> None:
        """Takes back what `saved` returned after `step` updates, and the tests until then."""
        state, self.totals, self.best = self.shared.devices.place(saved, len(self.shared.dataset.train))
        self.state, self.tests = state.replace(frozen=self.state.frozen), tests
        if step < self.shared.schedule.total:
            self.load_epoch(step)

    @property
    def log_file(self) -> str:
        """The path of `metrics.jsonl` in the run folder."""
        return str((self.folder / run_folder.METRICS).relative_to(self.shared.folder))

    def check_finite(self, step: int) -> None:
        """Raises `NonFiniteError` if an array that a checkpoint would hold is not finite."""
        leaves = jax.tree_util.tree_leaves_with_path((self.state.params, self.state.extra, self.state.opt_state))
        bad = [jax.tree_util.keystr(path) for path, leaf in leaves if not hosts.finite_here(leaf)]
        if bad:
            raise NonFiniteError(
                f"{bad[0]} (of {len(bad)}) became non-finite before step {step}; nothing was saved.\n"
                f"The last checkpoint in {self.shared.folder} is of an earlier step. {ADVICE}"
            )

    # The log line.

    def check_terms(self, step: int) -> None:
        """Raises if a picture could not be read or a metric was not finite; then with metric, step and cause."""
        self.stream.check()
        bad = jax.device_get(self.totals.bad)
        first = min(bad.values())
        if self.shared.update.skip or first > step:
            return
        names = [name for name, when in bad.items() if when == first]
        terms = [n for n in names if n not in ("loss", "gradient_norm")] or names
        raise NonFiniteError(
            f"{', '.join(terms)} became non-finite in step {first}{self._cause(first - 1)}.\n"
            f"The last checkpoint in {self.shared.folder} is of an earlier step. {ADVICE}"
        )

    def _cause(self, step: int) -> str:
        """Returns the input of update `step` that was not finite, for a message. The step alone decides the batch."""
        look = self.shared.update.inspect
        split = self.stream.feed(self.epoch_at(step), step)
        read, index = jax.device_get(look(self.state, split, np.asarray(step, np.int32)))
        for name, values in read.items():
            rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if rows.any():
                index = index[rows]
                return f": the {name} is not finite for training image {', '.join(map(str, index[:3]))}"
        return ""

    def write_log(self, step: int) -> dict[str, float]:
        """Writes the means since the last log line, empties them, and returns them."""
        totals = jax.device_get(self.totals)
        values = {n: float(a.total / a.count) for n, a in totals.averages.items() if a.count}
        correct, labelled = values.pop("correct", 0.0), values.pop("labelled", 0.0)
        if labelled:
            values["top1"] = 100 * correct / labelled
        if self.shared.update.skip:
            values["skipped"] = int(totals.skipped)
            if "loss" not in values:
                warn(f"all updates since the last log line were skipped; {values['skipped']:,} in all. {ANEW}")
        values["learning_rate"] = float(self.shared.learning_rate(self._optimizer_steps() - 1))
        if self.shared.strategy.method and self._first_of_epoch(step):
            values.update(self._shares(step))
        self.totals = self.shared.devices.place(Totals.empty(totals.averages, totals.skipped))
        self._row("train", step, values)
        return values

    def _optimizer_steps(self) -> int:
        """Returns the number of the optimizer's updates. A strategy can start the optimizer afresh within a run."""
        counts = optax.tree.get_all_with_path(self.state.opt_state, "count")
        return int(counts[-1][1])

    def _first_of_epoch(self, step: int) -> bool:
        """Whether the log line after `step` updates is the first of its epoch."""
        schedule = self.shared.schedule
        return (step - 1) % schedule.steps_per_epoch < schedule.log_every

    def _shares(self, step: int) -> dict[str, float]:
        """Returns each loss term's share of the gradient at the last batch. Warns if a share stays extreme."""
        shared, last = self.shared, np.asarray(step - 1, np.int32)
        shares = jax.device_get(shared.update.shares(self.state, self.stream.feed(self.split, step - 1), last))
        phase = shared.strategy.method.first_phase_epochs * shared.schedule.steps_per_epoch
        for name, share in shares.items() if step > phase and len(shares) > 1 else ():
            if EXTREME[0] <= share <= EXTREME[1]:
                self._extreme.pop(name, None)
            elif self._extreme.setdefault(name, step) + PATIENCE <= step and name not in shared.warned:
                shared.warned.add(name)
                warn(
                    f"{name} has had {100 * share:.2g} % of the gradient since step {self._extreme[name]}. "
                    "Check its weight in --config.distiller_options."
                )
        return {f"share/{name}": float(share) for name, share in shares.items()}

    def board(self, name: str, value: float, step: int) -> None:
        """Writes a number that depends on the clock to TensorBoard, not to `metrics.jsonl`."""
        if self.log:
            self.log.board(name, value, step)

    def _row(self, kind: str, step: int, values: dict[str, float]) -> None:
        if self.log:
            self.log.write(kind, step, step / self.shared.schedule.steps_per_epoch, values)

    # The test.

    def answer(self, exam: data.Exam, stop: Callable[[], bool]) -> dict[str, np.ndarray] | None:
        """Returns name -> logits on a split of each tested network; None if `stop` returned True."""
        shared, logits = self.shared, {}
        tested = {**shared.strategy.learners(self.state), **shared.strategy.tested(self.state)}
        if exam is not shared.exams[0]:  # the training is over
            tested["best"] = tested["student"][0], self.best
        for name, (player, variables) in tested.items():
            if name not in shared.asked:
                shared.asked[name] = Answers(player, shared.devices, shared.task)
            logits[name] = shared.asked[name](variables, exam.images, stop=stop)
            if logits[name] is None:
                return None
        return logits

    def write_test(self, exam: data.Exam, step: int, logits: dict, teacher_logits: np.ndarray | None) -> None:
        """Writes what `answer` returned as a row, and keeps the student's weights if they are the best so far."""
        shared, labels, best = self.shared, exam.labels, logits.pop("best", None)
        values = self._metrics(logits["student"], labels, teacher_logits)
        for name, theirs in {**logits, **shared.strategy.ensembles(logits)}.items():
            if name != "student":
                measured = self._metrics(theirs, labels)
                values |= {f"{name}/{key}": measured[key] for key in (shared.task.main, "nll") if key in measured}
        if best is not None:  # on images that have chosen nothing
            self.best_test["test"] = self._metrics(best, labels, teacher_logits)
            self.tests[-1]["test"] = values
        else:
            self.tests.append({"epoch": step // shared.schedule.steps_per_epoch, **values})
            if self.best_test is self.tests[-1]:
                self.best = copied(shared.strategy.student_variables(self.state))
        self._row(exam.name, step, values)

    def _metrics(self, logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None) -> dict:
        """Returns the task's metrics. Non-finite logits raise `NonFiniteError` with the number of skipped updates."""
        try:
            return self.shared.task.metrics(logits, labels, teacher_logits)
        except NonFiniteError as error:
            skipped = int(jax.device_get(self.totals.skipped))
            after = f" {skipped:,} updates were skipped until then." if self.shared.update.skip else ""
            advice = ANEW if self.shared.update.skip else ADVICE
            raise NonFiniteError(f"In the test: {error}{after}\n{advice}") from None

    def untested(self, step: int) -> list[data.Exam]:
        """The splits that are still to be looked at after `step` updates, an epoch's end."""
        schedule, (first, *rest) = self.shared.schedule, self.shared.exams
        made = [row for row in self.tests if row["epoch"] == step // schedule.steps_per_epoch]
        final = rest if step == schedule.total and not any("test" in row for row in made) else []
        return [*([] if made else [first]), *final]

    @property
    def tested(self) -> dict[str, float]:
        """The last and the best main metric so far, for the progress line; empty where there is none."""
        main, split = self.shared.task.main, self.shared.exams[0].name
        return {f"{split} {main}": self.tests[-1][main], "best": self.best_test[main]} if self.tests and main else {}

    @property
    def best_test(self) -> dict:
        """The first test with the highest main metric, or the last test; after `best_after` once a test is."""
        after = self.shared.strategy.best_after(self.shared.train_epoch)
        rows = [row for row in self.tests if row["epoch"] > after] or self.tests
        return max(rows, key=lambda row: row[self.shared.task.main or "epoch"])

    # The weights.

    def keep(self, step: int) -> None:
        """Writes the weights of the ended epoch to `epochs/`. After a resume the same weights are written again."""
        epoch = step // self.shared.schedule.steps_per_epoch
        tested = [row.get("top1") for row in self.tests if row["epoch"] == epoch]
        facts = {"epoch": epoch, "test_top1": None, f"{self.shared.exams[0].name}_top1": tested[0] if tested else None}
        self._write(f"{run_folder.EPOCHS}/{epoch:04d}", self.shared.strategy.student_variables(self.state), **facts)

    def finish(self, speed: dict) -> dict:
        """Writes `last/`, `best/`, the other learners' weights and `summary.json`; returns the summary."""
        last, best = map(run_folder.summary_row, (self.tests[-1], self.best_test))
        learners = self.shared.strategy.learners(self.state)
        student = learners.pop("student")[1]
        for name, weights, row in (("last", student, last), ("best", self.best, best)):
            self._write(name, weights, test_top1=row.get("top1"), test=row)
        for name, (player, variables) in learners.items():
            test = {key.partition("/")[2]: last[key] for key in last if key.startswith(f"{name}/")}
            facts = {"mean": list(player.mean), "std": list(player.std), "test_top1": test.get("top1"), "test": test}
            self._write(name, variables, **self.shared.others.get(name, {}), **facts)
        parameters = int(sum(x.size for x in jax.tree.leaves(student["params"])))
        summary = {"last": last, "best": best, "best_on": self.shared.exams[0].name, "parameters": parameters, **speed}
        if self.shared.update.skip:
            summary["skipped"] = int(self.totals.skipped)
        write_json(self.folder / run_folder.SUMMARY, summary)
        return summary

    def _write(self, name: str, variables: dict, **facts) -> None:
        pretrained.save(self.folder / name, jax.device_get(variables), {**self.shared.info, "seed": self.seed, **facts})
