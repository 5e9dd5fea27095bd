"""What is due after each step: a pure function of the step and the config."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Due:
    """What is due after an update.

    Attributes:
        log: a log line.
        epoch: an epoch has ended.
        test: a test.
        keep: the weights of the epoch are to be kept.
        end: the training has ended.
    """

    log: bool
    epoch: bool
    test: bool
    keep: bool
    end: bool

    @property
    def any(self) -> bool:
        """Whether anything is due."""
        return self.log or self.epoch or self.end


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of a run.

    Attributes:
        steps_per_epoch: updates in an epoch.
        epochs: epochs of the whole training.
        log_every: steps between log lines.
        eval_every: epochs between tests; the last epoch is always tested.
        keep_epochs: epochs between kept weights; 0: none are kept.
        most: the largest number of updates in one call.
    """

    steps_per_epoch: int
    epochs: int
    log_every: int = 50
    eval_every: int = 1
    keep_epochs: int = 0
    most: int = 1

    @property
    def total(self) -> int:
        """Updates of the whole training."""
        return self.epochs * self.steps_per_epoch

    def next(self, step: int) -> tuple[int, Due]:
        """Returns how many updates the next call makes, after `step` updates, and what is due after that call."""
        count = min(self.most, *(every - step % every for every in (self.log_every, self.steps_per_epoch)))
        return count, self.due(step + count)

    def due(self, step: int) -> Due:
        """What is due after `step` updates."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        end, whole = step == self.total, step > 0 and not rest
        return Due(
            log=end or step % self.log_every == 0,
            epoch=whole,
            test=whole and (end or epoch % self.eval_every == 0),
            keep=whole and self.keep_epochs > 0 and epoch % self.keep_epochs == 0,
            end=end,
        )
