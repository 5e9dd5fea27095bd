"""Looks for the usual mistakes of a distillation before it is trained (`--check_only`).

Each check returns findings: "ok", "look" (this may be meant) or "wrong" (this spoils the run). The parts of the run are
built as the training builds them; a step's gradient is computed, and nothing is trained or written.
"""

import dataclasses
import pathlib
import tempfile

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from configs import cifar100, resolve
from configs.command import Command
from data import Augmentation
from pretrained.classes import class_note, columns, tell_accuracy
from registry import UserError
from studies.compare import mean_of
from studies.report import SAME
from training.answers import BATCH, Answers, spaced
from training.builder import Builder
from training.replica import Replica, Shared
from training.run_folder import CONFIG, SUMMARY, read_json

OK, LOOK, WRONG = "ok", "look", "wrong"
FEW, VERY_FEW = 16, 4  # images in a batch whose statistics batch norm takes
SMALL, LARGE = 0.02, 0.98  # share of the gradient
RATES = {"sgd": (0.05, 64), "dot": (0.05, 64), "adam": (1e-3, 128), "adamw": (1e-3, 128)}  # usual rate at a batch
APART = 5.0  # factor between a rate and the usual one
SLOW = 0.01  # SGD's rate of `cifar100.SLOW` at batch 64
TRANSFORMERS = ("ViT", "ConvNeXt")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        mark: `OK`, `LOOK` or `WRONG`.
        text: one sentence or two.
    """

    mark: str
    text: str


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of the run that is checked.

    Attributes:
        config: complete.
        builder: has the teachers' weights.
        shared, replica: the run's first seed.
        asked: the `Answers` of each teacher, and its logits [M, K] on `rows` of the test images.
        rows: [M] int.
        baselines: finished runs beside the run's folder on labels alone, with the same data, student and budget.
    """

    config: FrozenConfigDict
    builder: Builder
    shared: Shared
    replica: Replica
    asked: list[tuple[Answers, np.ndarray]]
    rows: np.ndarray
    baselines: list[pathlib.Path]

    @property
    def logits(self) -> list[np.ndarray]:
        """[M, K] of each teacher."""
        return [logits for _, logits in self.asked]

    @property
    def labels(self) -> np.ndarray:
        """[M] int."""
        return self.shared.dataset.test.labels[self.rows]

    @property
    def metric(self) -> str:
        """The metric that a teacher is judged by."""
        return "top1" if self.shared.task.compares else self.shared.task.main

    def accuracy(self, answers: np.ndarray) -> float:
        """`metric` on `rows` in percent; 0 where it is not defined."""
        return self.shared.task.metrics(answers, self.labels).get(self.metric, 0.0)

    def chance(self, answers: np.ndarray) -> float:
        """A metric below this is not better than chance: three standard errors above guessing; of boxes 0.1 %."""
        classes, count = answers.shape[1], len(self.rows)
        if not self.shared.task.compares:
            return 0.1
        return 100 / classes + 300 * np.sqrt((classes - 1) / classes**2 / count)


def evaluation_mode(parts: Parts) -> list[Finding]:
    """Whether a teacher's answer to an image depends on the other images of the batch."""
    found = []
    for (weights, _, variables), (answers, logits) in zip(parts.builder.teachers, parts.asked, strict=True):
        alone = answers(variables, parts.shared.exams[-1].images, parts.rows[:1])[0]
        if np.abs(alone - logits[0]).max() > 1e-3 * np.abs(logits[0]).max():
            text = f"The answers of teacher {weights.info['arch']} depend on the other images of the batch: its batch "
            found.append(Finding(WRONG, text + "norm or dropout is in training mode."))
    ok = [Finding(OK, "The teacher is in evaluation mode: its answers do not depend on the batch.")]
    return found or ok * bool(parts.asked)


def normalisation_and_classes(parts: Parts) -> list[Finding]:
    """Whether a teacher is as good here as it was recorded, and whether its classes are in the data's order."""
    shared, found = parts.shared, []
    for (weights, *_), logits in zip(parts.builder.teachers, parts.logits, strict=True):
        said, warned = [], []
        tell_accuracy(weights, shared.dataset, shared.task, logits, said.append, warned.append, parts.rows)
        if note := class_note("teacher", weights.info, shared.dataset, logits, parts.labels):
            found.append(Finding(WRONG if "would" in note else LOOK, sentence(note)))
        found += [Finding(WRONG, sentence(text)) for text in warned] or [Finding(OK, f"{said[0]}, as recorded.")]
    return found


def teachers_accuracy(parts: Parts) -> list[Finding]:
    """Whether a teacher is better than chance and than labels alone."""
    found = []
    for (weights, *_), logits in zip(parts.builder.teachers, parts.logits, strict=True):
        if columns(weights.info, parts.shared.dataset) is None:
            continue
        accuracy, name = parts.accuracy(logits), f"teacher {weights.info['arch']}"
        if accuracy < parts.chance(logits):
            classes = f"{accuracy:.2f} % of {parts.shared.dataset.num_classes} classes"
            found.append(Finding(WRONG, f"The {name} is not better than chance: {classes}."))
        for path in parts.baselines:
            alone = last_of(path, parts.metric)
            if accuracy <= alone:
                text = f"The {name} ({accuracy:.2f} %) is not better than the student on labels alone ({alone:.2f} %, "
                found.append(Finding(LOOK, f"{text}{path})."))
    return found or [Finding(OK, "The teacher is better than chance.")] * bool(parts.logits)


def weights_of_the_terms(parts: Parts) -> list[Finding]:
    """Whether one term of the loss has nearly all of the gradient at the first step."""
    replica, update = parts.replica, parts.shared.update
    found = jax.device_get(update.shares(replica.state, replica.split, np.asarray(0, np.int32)))
    shares = {name: float(share) for name, share in found.items()}
    listed = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    if len(shares) < 2:
        return [Finding(OK, f"The loss has one term: {', '.join(shares)}.")]
    text = f"Shares of the student's gradient at the first step: {listed}."
    if min(shares.values()) < SMALL or max(shares.values()) > LARGE:
        text += " A term without a share teaches nothing: check the weights in --config.distiller_options."
        return [Finding(LOOK, text + " (A method may raise its weight during the training.)")]
    return [Finding(OK, text)]


def views(parts: Parts) -> list[Finding]:
    """Whether student and teacher see the same pixels."""
    config, moves = parts.config, Augmentation.of(parts.config, parts.shared.dataset.mean)
    if not (parts.builder.teachers or parts.builder.given):
        return []
    if config.teacher_logits and moves != dataclasses.replace(moves, crop_pad=0, flip="no"):
        text = f"The logits of --teacher_logits are of {max(config.teacher_views, 1)} fixed view(s) of each image"
        return [Finding(LOOK, f"{text}; the student sees new crops and flips only if the file has them.")]
    if config.teacher_views:
        return [Finding(OK, f"Student and teacher see the same views, {config.teacher_views} of each image.")]
    return [Finding(OK, "Student and teacher see the same crop, flip and colours of each image.")]


def batch_norm(parts: Parts) -> list[Finding]:
    """Whether batch norm has enough images for its statistics."""
    variables = parts.shared.strategy.student_variables(parts.replica.state)
    size = parts.config.batch_size // parts.config.accumulate
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        return []
    if size >= FEW:
        return [Finding(OK, f"Batch norm takes its statistics over {size} images.")]
    text = f"Batch norm takes its statistics over {size} images: they are noisy, and tests use others."
    return [Finding(WRONG if size <= VERY_FEW else LOOK, text + " Use a larger batch, or fewer parts of it.")]


def learning_rate(parts: Parts) -> list[Finding]:
    """Whether the learning rate is far from what the network and the optimizer usually want."""
    config = parts.config
    arch, rate, size = config.student_arch, config.learning_rate, config.batch_size
    if config.optimizer == "sgd" and arch.startswith(TRANSFORMERS):
        return [Finding(LOOK, f"{arch} is usually trained with --optimizer adamw; SGD is slow for it.")]
    if config.optimizer not in RATES:
        return []
    usual, batch = RATES[config.optimizer]
    if arch.startswith(cifar100.SLOW) and config.optimizer in ("sgd", "dot"):
        usual = SLOW
    usual *= size / batch
    if config.init_param and not config.freeze and rate > usual / APART:
        text = f"The student starts from trained weights, and the learning rate {rate:g} would train a new network."
        return [Finding(LOOK, f"{text} {usual / 10:.2g} is usual.")]
    if not config.init_param and not usual / APART <= rate <= usual * APART:
        text = (
            f"The learning rate {rate:g} is far from what is usual for {arch} with {config.optimizer} at batch {size}"
        )
        return [Finding(LOOK, f"{text}: {usual:.2g}.")]
    return [Finding(OK, f"The learning rate {rate:g} is usual for {arch} with {config.optimizer} at batch {size}.")]


def classes(parts: Parts) -> list[Finding]:
    """Says for how many classes the method was traced; a method that is not defined for them has raised before."""
    name = parts.config.distiller or parts.config.transfer
    return [Finding(OK, f"{name} is defined for the {parts.shared.dataset.num_classes} classes of the data.")]


def baseline(parts: Parts) -> list[Finding]:
    """Whether a run on labels alone stands beside the run."""
    if parts.config.transfer == "Labels":
        return []
    if parts.baselines:
        return [Finding(OK, f"{parts.baselines[0]} is the same student on labels alone.")]
    folder = pathlib.Path(parts.config.train_path).parent
    text = f"No finished run of the same student, data and epochs on labels alone in {folder}."
    return [Finding(LOOK, f"{text} Without one nobody knows what the teacher adds: --transfer Labels.")]


CHECKS = (
    evaluation_mode,
    normalisation_and_classes,
    teachers_accuracy,
    weights_of_the_terms,
    views,
    batch_norm,
    learning_rate,
    classes,
    baseline,
)


def sentence(text: str) -> str:
    """Begins a line for the user with a capital letter."""
    return text[:1].upper() + text[1:]


def last_of(run: pathlib.Path, metric: str) -> float:
    """Returns the last test's metric of a finished run, the mean over its seeds."""
    return mean_of(read_json(run / SUMMARY)["last"][metric])


def baselines_of(config: dict) -> list[pathlib.Path]:
    """Returns the finished runs on labels alone beside the run's folder that compare with it."""
    found, keys = [], [key for keys in SAME.values() for key in keys if key != "data"]
    for summary in sorted(pathlib.Path(config["train_path"]).expanduser().parent.glob(f"*/{SUMMARY}")):
        try:
            other = resolve.plain(read_json(summary.parent / CONFIG))
        except (UserError, OSError):
            continue  # another kind of folder, or a damaged run
        same = all(other.get(key) == config[key] for key in keys)
        if other.get("transfer") == "Labels" and same:
            found.append(summary.parent)
    return found


def examine(recipe: dict, typed: tuple[str, ...] = ()) -> list[Finding]:
    """Builds a run's parts and checks them.

    Raises:
        UserError: the training could not begin.
    """
    config, notes = resolve.resolve(recipe, typed)
    first = {**resolve.plain(config), "seeds": 1, **({} if config.teacher_logits else {"teacher_views": 0})}
    builder = Builder(FrozenConfigDict(first), lambda line: None)
    with tempfile.TemporaryDirectory() as folder:
        shared = builder.shared(pathlib.Path(folder))
        (replica,) = builder.replicas(shared)
        rows, images = spaced(len(shared.dataset.test), BATCH), shared.exams[-1].images
        answers = [Answers(player, builder.devices, builder.task) for _, player, _ in builder.teachers]
        asked = [(ask, ask(own, images, rows)) for ask, (*_, own) in zip(answers, builder.teachers, strict=True)]
        baselines = baselines_of(resolve.plain(config))
        parts = Parts(config, builder, shared, replica, asked, rows, baselines)
        return [Finding(LOOK, sentence(note)) for note in notes] + [f for check in CHECKS for f in check(parts)]


def run(given: Command) -> int:
    """Prints the findings, the worst first. Returns the exit code: 1 if something is wrong, else 0."""
    try:
        found = examine(given.recipe, given.typed)
    except UserError as error:
        found = [Finding(WRONG, f"The training cannot begin: {error}")]
    for mark in (WRONG, LOOK, OK):
        for finding in found:
            if finding.mark == mark:
                print(f"{mark:<6} {finding.text}")
    return int(any(finding.mark == WRONG for finding in found))
