"""The loop above the compiled step: when to log, evaluate, save and stop. Plain Python."""

import contextlib
import time

import jax
from clu import parameter_overview

from models import profile
from training import hosts
from training.checkpoint import Checkpoints
from training.replicas import Replicas
from training.run_folder import SaveError
from training.signals import Interrupted, Stop, asked_to_stop
from training.step import Trainer
from training.writers import MetricsLog, Progress

CALLS = 50  # updates in one call on a GPU or TPU, at most


def run(*, start: float, quiet: bool = False, **parts) -> dict:
    """Trains to the end.

    Args:
        start: `time.monotonic()` at the start of the command.
        quiet: no progress.
        **parts: folder (locked by the process that writes), config (resolved), dataset, strategy, augmentation
            (static), replicas, teacher_answers (`training.teachers.TeacherAnswers`, or None), info (what `model.json`
            shall say), others (what it shall say in addition of learners beside the student, by name).

    Returns:
        The summary.

    Raises:
        Interrupted, NonFiniteError.
    """
    loop = Replicas(**parts)
    config = loop.config
    accelerated = jax.default_backend() != "cpu"
    most = (CALLS if accelerated else 1) if config.steps_per_call == "auto" else int(config.steps_per_call)
    stacked = accelerated if config.stack_seeds == "auto" else config.stack_seeds == "yes"
    with contextlib.ExitStack() as stack:
        checkpoints = None
        with hosts.agreed():
            if hosts.first():
                checkpoints = Checkpoints(loop.folder)
                stack.callback(checkpoints.close)
        train = Trainer(
            loop.strategy,
            loop.augmentation,
            skip=config.on_nan == "skip",
            stacked=stacked and len(loop.replicas) > 1,
            many=most > 1,
        )
        positions = loop.start(checkpoints, train)
        earlier = loop.seconds
        with hosts.agreed():
            for replica, position in zip(loop.replicas, positions, strict=True) if checkpoints else []:
                replica.folder.mkdir(exist_ok=True)
                replica.log = MetricsLog(replica.folder, position, loop.step)
                stack.callback(replica.log.close)
        stopping = stack.enter_context(asked_to_stop())
        if not loop.step:
            loop.save(checkpoints)  # so that rows without a checkpoint mean that one was lost
        with hosts.agreed():
            if not quiet:
                _header(loop)
        progress = Progress(loop.folder.name, loop.total)
        stack.callback(progress.end)
        clock = _Clock(loop.step)
        terms, start_seconds, rate, saved = {}, 0.0, 0.0, time.monotonic()
        stopped_in_test = loop.step > 0 and _test_due(loop)
        if stopped_in_test and not _end_of_epoch(loop, stopping):
            raise _interrupted(loop)
        if stopping.is_set() and loop.step < loop.total and not hosts.several():
            raise _interrupted(loop)
        at_once = stopping.at_once
        while loop.step < loop.total:
            first = not start_seconds
            count = 1 if first else min([most, *(n - loop.step % n for n in (config.log_every, loop.steps_per_epoch))])
            loop.states, loop.totals = train(loop.states, loop.totals, loop.splits, count)
            stopping.at_once = False
            loop.step += count
            done = loop.step == loop.total
            log_now = done or loop.step % config.log_every == 0
            save_now = stopping.is_set() or time.monotonic() - saved >= config.checkpoint_seconds
            epoch_end = not done and loop.step % loop.steps_per_epoch == 0
            # Clocks and signals are a process's own; several look at them only after steps that all of them know.
            asked = save_now and not hosts.several()
            if not (first or log_now or asked or epoch_end or done):
                continue  # nothing between steps: the device is not waited for
            jax.block_until_ready(loop.totals)
            clock.pause(loop.step, warm=not first)
            rate = clock.rate * config.batch_size * len(loop.replicas)
            if first:
                start_seconds = time.monotonic() - start
            loop.check_terms()
            if log_now:
                terms = loop.log()
                if hosts.first():
                    loop.replicas[0].log.board("speed/images_per_second", rate, loop.step)
            if _test_due(loop) and loop.teacher_answers and not loop.teacher_answers.known:
                progress.end()  # they will be told
            tested = _end_of_epoch(loop, stopping)
            stop, save_now = hosts.any_of(stopping.is_set(), save_now)  # asked anew: evaluating takes a while
            if log_now and not quiet:
                progress.show(loop.step, rate, config.batch_size * len(loop.replicas), terms, loop.tested())
            if first and loop.teacher_answers and not stop:
                progress.end()
                stopping.at_once = at_once  # a large teacher takes long, and one update is soon made again
                loop.teacher_answers.check()
                stopping.at_once = False
            if epoch_end:
                loop.load_epoch()
            if (save_now or stop) and not (done and tested):
                loop.seconds = clock.seconds + earlier
                loop.save(checkpoints, must=stop)
                saved = time.monotonic()
            if stop and not (done and tested):
                raise _interrupted(loop)
            clock.resume(loop.step)
        stopping.at_once = False
        loop.seconds = clock.seconds + earlier
        loop.save(checkpoints)
        summary = None
        with hosts.agreed():
            if hosts.first():
                summary = _finish(loop, start_seconds, rate)
        return hosts.share(summary)


def _test_due(loop: Replicas) -> bool:
    epoch, rest = divmod(loop.step, loop.steps_per_epoch)
    if rest or (epoch % loop.config.eval_every and loop.step < loop.total):
        return False
    return not any(row["epoch"] == epoch for row in loop.replicas[0].tests)


def _end_of_epoch(loop: Replicas, stopping: Stop) -> bool:
    """Tests and keeps the weights if an epoch has ended and it is time to; False where it was stopped before."""
    if _test_due(loop) and not loop.test(None if hosts.several() else stopping):
        return False
    epoch, rest = divmod(loop.step, loop.steps_per_epoch)
    if loop.config.keep_epochs and not rest and epoch % loop.config.keep_epochs == 0:
        with hosts.agreed():
            if hosts.first():
                loop.keep()
    return True


def _interrupted(loop: Replicas) -> Interrupted:
    return Interrupted(f"Interrupted at step {loop.step}; saved in {loop.folder}. The same command continues.")


def _finish(loop: Replicas, start_seconds: float, rate: float) -> dict:
    try:
        return loop.finish(start_seconds, rate)
    except OSError as error:
        raise SaveError(
            f"Cannot write the results to {loop.folder}: {error.strerror}. The training is saved: "
            "mend that, and the same command writes them."
        ) from None


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


def _header(loop: Replicas) -> None:
    """What is about to be trained, in a few lines; the full parameter overview goes to the run folder."""
    state = loop.states[0]
    params = state.params
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    (loop.folder / "parameters.txt").write_text(overview + "\n")
    counts = ", ".join(
        f"{n} {parameter_overview.count_parameters(p):,}" for n, p in params.items() if jax.tree.leaves(p)
    )
    frozen = [f"{n} {parameter_overview.count_parameters(v['params']):,} frozen" for n, v in state.frozen.items()]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"Parameters: {', '.join([counts, *frozen])}. Devices: {devices}. Run: {loop.folder}", flush=True)
    shape, teacher = loop.dataset.image_shape, getattr(loop.strategy, "teacher", None)
    student = profile.cost(loop.strategy.student.model, shape, loop.strategy.student_variables(state))
    teachers = teacher if isinstance(teacher, tuple) else (teacher,) if teacher else ()
    trained = loop.teacher_answers.teachers if loop.teacher_answers else [None] * len(teachers)
    for teacher, weights in zip(teachers, trained, strict=True):
        cost = profile.cost(teacher.model, shape, weights and weights.variables)
        print(profile.compare(cost, student), flush=True)
    if not teachers:
        print(f"Cost: {student}.", flush=True)
    if loop.step:
        print(f"Continuing at step {loop.step} of {loop.total}.", flush=True)
