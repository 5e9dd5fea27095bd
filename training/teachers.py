"""Trained teachers: their weights, and what they answer on the test split."""

import threading

import jax
import numpy as np
from ml_collections import ConfigDict

import data
import pretrained
from registry import UserError
from training import config as configs
from training.evaluation import check_fits
from training.metrics import evaluate
from training.run_folder import warn
from training.step import EVAL_BATCH, Predictor, replicate
from transfer import Player

TOLERANCE = 1.0  # points of top-1 between a teacher's recorded and measured accuracy
SAMPLE = EVAL_BATCH  # test images that a teacher is checked on, on a CPU


class TeacherAnswers:
    """The logits of trained teachers on the test split, which a student's agreement is measured with.

    A large teacher takes long over a test split on a CPU. So there it is checked on some of the images, and asked about
    all of them when they are first needed.

    Args:
        teachers: the weights.
        players: (network, variables) of each.
        dataset: whose test split it is.
        say: takes a line for the user.
    """

    def __init__(self, teachers: list[pretrained.Pretrained], players: list[tuple[Player, dict]], dataset, say):
        self.teachers, self.dataset, self.say = teachers, dataset, say
        images = replicate(dataset.test.images)
        self._ask = [(Predictor(player, images), variables) for player, variables in players]
        self._logits: np.ndarray | None = None
        self._checked = False
        count = len(dataset.test)
        rows = np.arange(SAMPLE) * count // SAMPLE  # evenly spaced: some splits are sorted by class
        self._rows = rows if jax.default_backend() == "cpu" and count > SAMPLE else None

    @property
    def known(self) -> bool:
        """Whether they have been asked about everything."""
        return self._logits is not None

    @property
    def samples(self) -> bool:
        """Whether `check` looks at some of the images alone."""
        return self._rows is not None

    def check(self) -> None:
        """Says how good the teachers are, and warns of what is worse than recorded; once."""
        if self._checked:
            return
        self._checked, theirs = True, list(self.dataset.class_names)
        for teacher in self.teachers:
            names = teacher.info["class_names"]
            if names not in (theirs, [str(i) for i in range(len(theirs))]):  # numbers: an import that knew no names
                warn(f"the teacher's classes {names[:3]} ... are not the data's {theirs[:3]} ...")
        if self.known or not self.samples:
            self.logits()
            return
        for teacher, (predict, variables) in zip(self.teachers, self._ask, strict=True):
            self._compare(teacher, predict.sample(variables, self._rows), self._rows)

    def logits(self, stopping: threading.Event | None = None) -> np.ndarray | None:
        """[N, K] float32, the mean over the teachers; None where `stopping` was set on the way."""
        if self._logits is None:
            answers = []
            for predict, variables in self._ask:
                answers.append(predict(variables, stopping))
                if answers[-1] is None:
                    return None
            for teacher, answer in zip(self.teachers, answers, strict=True):
                self._compare(teacher, answer, np.arange(len(answer)))
            self._logits = np.mean(answers, axis=0) if len(answers) > 1 else answers[0]
            self._ask = []  # and with it a copy of the images
        return self._logits

    def _compare(self, teacher: pretrained.Pretrained, logits: np.ndarray, rows: np.ndarray) -> None:
        """Warns when a teacher is not as good as its `model.json` says: a wrong normalisation or class order."""
        measured = evaluate(logits, self.dataset.test.labels[rows])["top1"]
        recorded, count = teacher.info["test_top1"], len(self.dataset.test)
        some = f" on {len(rows):,} of {count:,} images" if len(rows) < count else ""
        self.say(f"Teacher {teacher.info['arch']} from {teacher.folder}: test top-1 {measured:.2f} %{some}")
        if recorded is None:
            return
        # of a sample, three standard errors are chance
        chance = 3 * (recorded * (100 - recorded) * (1 / len(rows) - 1 / count)) ** 0.5
        if abs(measured - recorded) > TOLERANCE + chance:
            warn(
                f"the teacher's recorded test top-1 is {recorded:.2f} % ({teacher.info['dataset']}), here it has "
                f"{measured:.2f} %{some}. Check normalisation, class order and image size."
            )


def names_in(text: str) -> list[str]:
    """The parts between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def teachers_of(config: ConfigDict, dataset: data.Dataset) -> tuple[list[pretrained.Pretrained], list[str]]:
    """The trained teachers, and what the user says that each is ("" where nothing)."""
    params, archs = names_in(config.teacher_param), names_in(config.teacher_arch)
    if archs and params and len(archs) != len(params):
        raise UserError(
            f"--teacher_arch names {len(archs)} networks and --teacher_param {len(params)} weights: "
            f"{config.teacher_arch} and {config.teacher_param}.\nGive as many of both, or leave --teacher_arch out."
        )
    archs = archs or [""] * max(1, len(params))
    return [_teacher(config, dataset, p, a) for p, a in zip(params or [""], archs, strict=False)], archs


def _teacher(config: ConfigDict, dataset: data.Dataset, param: str, its_arch: str) -> pretrained.Pretrained:
    arch = its_arch or "ResNet20"
    command = f"python train_teacher.py --arch {arch} --dataset {config.dataset} --train_path runs/teacher"
    default = configs.defaults()
    if param == default.teacher_param and config.dataset != default.dataset:
        raise UserError(
            f"--teacher_param is missing: {default.teacher_param} was trained on {default.dataset}.\n"
            f"To train a teacher on {config.dataset}: {command}"
        )
    if not param:
        raise UserError(
            f"--transfer {config.transfer} needs --teacher_param, a trained teacher.\nTo train one: {command}"
        )
    teacher = pretrained.load(param)
    info = teacher.info
    if its_arch and its_arch != info["arch"]:
        raise UserError(f"--teacher_arch is {its_arch}, but the weights in {teacher.folder} are of {info['arch']}.")
    check_fits(teacher, dataset, "teacher", f"\nTo train one: {command}")
    return teacher
