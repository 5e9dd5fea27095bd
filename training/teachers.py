"""Trained teachers: their logits on the test split, and the check of their recorded accuracy."""

from collections.abc import Callable

import jax
import numpy as np

import data
import pretrained
from pretrained.players import class_note
from training.answers import BATCH, Answers
from training.devices import Devices
from training.run_folder import warn
from transfer import Player

TOLERANCE = 1.0  # points between a teacher's recorded and measured accuracy


class Teachers:
    """The trained teachers of a run. Several teachers answer with the mean of their logits.

    Args:
        loaded: (weights, player, variables) of each teacher; may be empty.
        dataset: has the test split.
        images: the images of the test split, on the devices.
        devices: where the programs run.
        task: what labels mean.
        say: takes a line for the user.
    """

    def __init__(
        self,
        loaded: list[tuple[pretrained.Pretrained, Player, dict]],
        dataset: data.Dataset,
        images: jax.Array,
        devices: Devices,
        task,
        say: Callable[[str], None],
    ):
        self.loaded, self.dataset, self.task, self.say = loaded, dataset, task, say
        self._answers = [Answers(player, images, devices) for _, player, _ in loaded]
        self._logits: np.ndarray | None = None

    def check(self) -> None:
        """Prints the teachers' accuracy on some of the test images.

        Warns if a teacher's accuracy is not the recorded one: normalisation, image size or class order may be wrong.
        Warns if a teacher has other classes, or if another order of the classes would make the teacher far better.
        """
        count = len(self.dataset.test)
        rows = np.unique(np.linspace(0, count - 1, min(BATCH, count)).astype(int))  # some splits are sorted by class
        for (weights, _, variables), answers in zip(self.loaded, self._answers, strict=True):
            logits = answers(variables, rows)
            self._compare(weights, logits, rows)
            if note := class_note("teacher", weights.info, self.dataset, logits, self.dataset.test.labels[rows]):
                warn(note)

    def logits(self, stop: Callable[[], bool]) -> np.ndarray | None:
        """Returns [N, K] float32 on the test split, computed once; None without teachers, or if `stop` returned True.

        If `check` used only some of the images, the accuracy on all of them is compared with the recorded one, too.
        """
        if self._logits is None and self.loaded:
            answers = []
            for (_, _, variables), ask in zip(self.loaded, self._answers, strict=True):
                answers.append(ask(variables, stop=stop))
                if answers[-1] is None:
                    return None
            if len(self.dataset.test) > BATCH:
                for (weights, *_), logits in zip(self.loaded, answers, strict=True):
                    self._compare(weights, logits, np.arange(len(logits)))
            self._logits = np.mean(answers, axis=0) if len(answers) > 1 else answers[0]
        return self._logits

    def _compare(self, weights: pretrained.Pretrained, logits: np.ndarray, rows: np.ndarray) -> None:
        """Prints the accuracy on the test images `rows`; warns if it is not the recorded one."""
        count = len(self.dataset.test)
        some = f" on {len(rows):,} of {count:,} images" if len(rows) < count else ""
        measured = self.task.metrics(logits, self.dataset.test.labels[rows])["top1"]
        recorded = weights.info["test_top1"]
        self.say(f"Teacher {weights.info['arch']} from {weights.folder}: test top-1 {measured:.2f} %{some}")
        # the accuracy on a sample may differ by three standard errors
        chance = 0 if recorded is None else 3 * (recorded * (100 - recorded) * (1 / len(rows) - 1 / count)) ** 0.5
        if recorded is not None and abs(measured - recorded) > TOLERANCE + chance:
            warn(
                f"the teacher's recorded test top-1 is {recorded:.2f} % ({weights.info['dataset']}), but here "
                f"{measured:.2f} %{some}. Check normalisation, class order and image size."
            )
