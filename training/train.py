"""Trains one run: `train` has all steps of a run on one page."""

import contextlib
import pathlib
import time
from collections.abc import Mapping

import jax
import numpy as np
from clu import parameter_overview

import hosts
from configs.resolve import resolve
from files import size_text, write_json
from models import profile
from signals import Interrupted, asked_to_stop
from training import run_folder
from training.builder import Builder
from training.checkpoint import Checkpoints
from training.devices import copied
from training.replica import Replica, Shared
from training.run_folder import SaveError, open_run, warn
from training.writers import Clock, MetricsLog, Progress


def train(recipe: Mapping, quiet: bool = False, typed: tuple[str, ...] = ()) -> dict:
    """Trains a student as a recipe says, or continues where an earlier call stopped.

    Args:
        recipe: config keys over the defaults of `configs/default.py`.
        quiet: print nothing but warnings.
        typed: the keys that the user typed. A typed key without effect raises.

    Returns:
        The run's summary, as written to `summary.json`.

    Raises:
        UserError: a mistake in the recipe, data, weights or folder; found before anything compiles or is written.
        signals.Interrupted: a signal arrived; everything is saved.
    """
    begun, quiet = time.monotonic(), quiet or not hosts.first()

    def say(text):
        if not quiet:
            print(text, flush=True)

    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(asked_to_stop())

        # 1. Resolve the config and check the parts of the run. The config does not change after this.
        with hosts.agreed():
            config, notes = resolve(recipe, typed)
            for note in notes:
                warn(note)
            folder = pathlib.Path(config.train_path).expanduser()
            if hosts.first():
                run_folder.refuse_second(folder)  # before anything slow
            builder = Builder(config, say)
            identity = builder.identity
        hosts.check_same("config, data and teacher", {k: v for k, v in identity.items() if k not in run_folder.OWN})

        # 2. Lock the folder and check that it holds this run. A finished run returns its summary.
        summary = None
        with hosts.agreed():
            if hosts.first():
                summary = stack.enter_context(open_run(folder, identity, builder.report))
        summary = hosts.share(summary)
        if summary:
            say(f"{folder} is finished already.")
            return summary

        # 3. Make one replica per seed, in its first state or in the state of the latest checkpoint.
        with hosts.agreed():
            shared = builder.shared(folder)
        shared.teachers.check()
        replicas = builder.replicas(shared)
        checkpoints = None
        with hosts.agreed():
            if hosts.first():
                checkpoints = Checkpoints(folder)
                stack.callback(checkpoints.close)
        step, earlier = _restore(replicas, checkpoints, stack)
        if not step:
            _save(replicas, checkpoints, step, 0.0)  # so rows without a checkpoint mean a lost checkpoint
        with hosts.agreed():
            if hosts.first():
                _describe(shared, replicas[0], say, step)

        # 4. The loop. First comes a test that an earlier stop interrupted.
        schedule, clock = shared.schedule, Clock(begun, config.batch_size * len(replicas), step, earlier)
        progress, saved = Progress(folder.name, schedule.total, quiet), time.monotonic()
        stack.callback(progress.end)
        due = schedule.due(step)
        if due.test and replicas[0].untested(step):
            if not _test(replicas, step, stopping):
                raise _interrupted(folder, step)
            if due.keep:
                _write_by_first(lambda step=step: [replica.keep(step) for replica in replicas])
        if stopping.is_set() and step < schedule.total and not hosts.several():
            raise _interrupted(folder, step)
        while step < schedule.total:
            # One call makes all updates up to the next step after which something is due.
            count, due = schedule.next(step)
            _update(replicas, step, count)
            step += count

            # Clocks and signals differ between processes, so several processes read them only where all wait anyway.
            late = time.monotonic() - saved >= config.checkpoint_seconds
            if not (clock.first or due.any or (not hosts.several() and (stopping.is_set() or late))):
                continue  # without waiting for the device
            jax.block_until_ready([replica.totals for replica in replicas])
            clock.pause(step)
            for replica in replicas:
                replica.check_terms(step)
            if due.log:
                rows = [replica.write_log(step) for replica in replicas]
                replicas[0].board("speed/images_per_second", clock.rate, step)
            tested = due.test and _test(replicas, step, stopping)
            if due.keep and (tested or not due.test):
                _write_by_first(lambda step=step: [replica.keep(step) for replica in replicas])
            if due.log:
                progress.show(step, clock, rows[0], replicas[0].tested)
            if due.epoch and not due.end:
                for replica in replicas:
                    replica.load_epoch(step)
            stop, late = hosts.any_of(stopping.is_set(), late)
            if stop and not (due.end and tested):
                _save(replicas, checkpoints, step, clock.seconds)
                raise _interrupted(folder, step)
            if late and not due.end:
                _save(replicas, checkpoints, step, clock.seconds, must=False)
                saved = time.monotonic()
            clock.resume(step)

        # 5. Write the last checkpoint, the weights and the summary.
        _save(replicas, checkpoints, step, clock.seconds)
        return hosts.share(_write_by_first(_finish, replicas, clock.summary(step)))


def _update(replicas: list[Replica], step: int, count: int) -> None:
    """Makes `count` updates of every replica, after `step` updates."""
    splits = [replica.stream.feed(replica.split, step, replica.state.step) for replica in replicas]
    states, totals = zip(*[(replica.state, replica.totals) for replica in replicas], strict=True)
    states, totals = replicas[0].shared.update(list(states), list(totals), splits, count)
    for replica, state, total in zip(replicas, states, totals, strict=True):
        replica.state, replica.totals = state, total


def _test(replicas: list[Replica], step: int, stopping) -> bool:
    """Tests every replica. Returns False if a signal arrived meanwhile; then a split is tested for all or for none."""

    def stop():
        return stopping.is_set() and not hosts.several()  # several processes can only stop together

    teachers = replicas[0].shared.teachers
    for exam in replicas[0].untested(step):
        teacher_logits = teachers.logits(exam, stop)
        answers = [replica.answer(exam, stop) for replica in replicas]
        if None in answers or (teachers.compared and teacher_logits is None):
            return False
        for replica, logits in zip(replicas, answers, strict=True):
            replica.write_test(exam, step, logits, teacher_logits)
    return True


def _restore(replicas: list[Replica], checkpoints: Checkpoints | None, stack) -> tuple[int, float]:
    """Restores the replicas from the latest checkpoint, and opens their logs at its step.

    Returns:
        (the step, the seconds of training until then).
    """
    like, found = [replica.saved() for replica in replicas], None
    with hosts.agreed():
        if checkpoints:
            found = checkpoints.restore(like, [replica.log_file for replica in replicas])
    trees, notes = found or (None, None)
    notes = hosts.share(notes)
    if notes:
        for i, saved in enumerate(hosts.share_arrays(trees, like)):
            replicas[i].restore(saved, notes["tests"][i], notes["step"])
    step = notes["step"] if notes else 0
    positions = notes["positions"] if notes else [0] * len(replicas)
    with hosts.agreed():
        for replica, position in zip(replicas, positions, strict=True) if checkpoints else ():
            replica.log = MetricsLog(replica.folder, position, step)
            stack.callback(replica.log.close)
    return step, notes["seconds"] if notes else 0.0


def _save(
    replicas: list[Replica], checkpoints: Checkpoints | None, step: int, seconds: float, must: bool = True
) -> None:
    """Saves a checkpoint; all processes call this together.

    If the save `must` succeed, this call waits for it. Otherwise a thread writes it while the training goes on, and a
    failure is only a warning, because a later save replaces this one.
    """
    with hosts.agreed():
        for replica in replicas:
            replica.check_finite(step)
    trees = copied([replica.saved() for replica in replicas])  # the next update takes the state's own buffers
    trees = jax.device_get(hosts.readable(trees)) if hosts.several() else trees
    with hosts.agreed():
        if not checkpoints:
            return
        notes = {"step": step, "seconds": seconds, "tests": [replica.tests for replica in replicas]}
        notes["positions"] = [replica.log.position for replica in replicas]
        logs = {replica.log_file: replica.log.position for replica in replicas}
        try:
            checkpoints.wait()
        except SaveError as error:  # from the save before
            warn(f"{error} The next save tries again.")
        try:
            for replica in replicas:
                replica.log.sync()
            checkpoints.save(step, trees, notes, logs, wait=must or hosts.several())
        except SaveError as error:
            if must:
                raise
            warn(f"{error} The next save tries again.")


def _write_by_first(write, *arguments):
    """Calls `write` in the first process and returns the result. An `OSError` becomes a `SaveError` of one line."""
    with hosts.agreed():
        if not hosts.first():
            return None
        try:
            return write(*arguments)
        except OSError as error:
            raise SaveError(
                f"Cannot write the results: {error.strerror}. The training is saved. Correct this, and the same "
                "command writes the results."
            ) from None


def _finish(replicas: list[Replica], speed: dict) -> dict:
    """Writes the weights and `summary.json` of each replica, and a summary of all. Returns the summary of all."""
    summaries = [replica.finish(speed) for replica in replicas]
    if len(replicas) == 1:
        return summaries[0]
    seeds = [replica.seed for replica in replicas]
    same = {key: summaries[0][key] for key in ("best_on", "parameters")}
    summary = {**over_seeds(summaries), "seeds": seeds, **same, **speed}
    write_json(replicas[0].shared.folder / run_folder.SUMMARY, summary)
    return summary


def over_seeds(summaries: list[dict]) -> dict:
    """Returns {"last", "best": metric -> {"mean", "std"}} over several summaries; sample standard deviation."""

    def spread(values):
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}

    return {
        which: {name: spread([s[which][name] for s in summaries]) for name in summaries[0][which]}
        for which in ("last", "best")
    }


def _interrupted(folder: pathlib.Path, step: int) -> Interrupted:
    return Interrupted(f"Interrupted at step {step}; saved in {folder}. The same command continues.")


def _describe(shared: Shared, replica: Replica, say, step: int) -> None:
    """Prints what will be trained, and writes the full list of parameters to the run folder."""
    params, count = replica.state.params, parameter_overview.count_parameters
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    (shared.folder / "parameters.txt").write_text(overview + "\n")
    counts = [f"{name} {int(count(own)):,}" for name, own in params.items() if jax.tree.leaves(own)]
    counts += [f"{name} {count(own['params']):,} frozen" for name, own in replica.state.frozen.items()]
    devices = f"{shared.devices.count} x {shared.devices.devices[0].device_kind}"
    say(f"Parameters: {', '.join(counts)}. Devices: {devices}. Run: {shared.folder}")
    shape, student = shared.dataset.image_shape, shared.strategy.student
    cost = profile.cost(student.model, student.view.shape(shape), shared.strategy.student_variables(replica.state))
    for weights, player, _ in shared.teachers.loaded:
        say(profile.compare(profile.cost(player.model, player.view.shape(shape), weights.variables), cost))
    if not shared.teachers.loaded:
        say(f"Cost: {cost}.")
    examples = len(shared.dataset.train)
    memory = sum(x.nbytes for x in jax.tree.leaves(replica.state.extra) if x.ndim and len(x) == examples)
    if memory:
        say(f"Memory of the method for {examples:,} training images: {size_text(memory)}, beside the weights.")
    if step:
        say(f"Continuing at step {step} of {shared.schedule.total}.")
