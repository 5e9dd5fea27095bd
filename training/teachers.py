"""Trained teachers: their logits on the splits of the tests, and the check of their recorded accuracy."""

from collections.abc import Callable

import numpy as np

import data
import pretrained
from pretrained.classes import class_note, columns, tell_accuracy
from training.answers import BATCH, Answers, spaced
from training.devices import Devices
from training.run_folder import warn
from transfer import Player


class Teachers:
    """The trained teachers of a run. Several teachers answer with the mean of their logits.

    Args:
        loaded: (weights, player, variables) of each teacher; may be empty.
        dataset: the run's.
        test: its test split.
        devices: where the programs run.
        task: what labels mean.
        say: takes a line for the user.
    """

    def __init__(
        self,
        loaded: list[tuple[pretrained.Pretrained, Player, dict]],
        dataset: data.Dataset,
        test: data.Exam,
        devices: Devices,
        task,
        say: Callable[[str], None],
    ):
        self.loaded, self.dataset, self.test, self.task, self.say = loaded, dataset, test, task, say
        self._answers = [Answers(player, devices, task) for _, player, _ in loaded]
        self._logits: dict[str, np.ndarray] = {}
        same = all(columns(own.info, dataset) is not None for own, *_ in loaded)
        self.compared = bool(loaded) and same and task.compares

    def check(self) -> None:
        """Prints the teachers' accuracy on some of the test images.

        Warns if a teacher's accuracy is not the recorded one: normalisation, image size or class order may be wrong.
        Warns if a teacher has other classes, or if another order of the classes would make the teacher far better.
        """
        labels = self.test.labels
        rows = spaced(len(labels), BATCH)
        for (weights, _, variables), answers in zip(self.loaded, self._answers, strict=True):
            logits = answers(variables, self.test.images, rows)
            tell_accuracy(weights, self.dataset, self.task, logits, self.say, warn, rows)
            if note := class_note("teacher", weights.info, self.dataset, logits, labels[rows]):
                warn(note)

    def logits(self, exam: data.Exam, stop: Callable[[], bool]) -> np.ndarray | None:
        """Returns [N, K] float32 on a split, computed once; None if nothing is compared, or `stop` returned True.

        If `check` used only some of the images, the accuracy on all of them is compared with the recorded one, too.
        """
        if exam.name not in self._logits and self.compared:
            answers = []
            for (_, _, variables), ask in zip(self.loaded, self._answers, strict=True):
                answers.append(ask(variables, exam.images, stop=stop))
                if answers[-1] is None:
                    return None
            if exam is self.test and len(exam.labels) > BATCH:
                for (weights, *_), logits in zip(self.loaded, answers, strict=True):
                    tell_accuracy(weights, self.dataset, self.task, logits, self.say, warn)
            self._logits[exam.name] = np.mean(answers, axis=0) if len(answers) > 1 else answers[0]
        return self._logits.get(exam.name)
