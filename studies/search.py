"""Searches config keys for the best accuracy on the validation split, with Optuna (extra `search`).

    python -m studies.search --space distiller_options.temperature=log:1:16 distiller_options.weight=log:0.1:100 \
        --trials 30 --prune --root runs/search --config configs/digits.py --distiller SoftLogits --val_split 0.1

`studies/space.py` has the forms of a dimension. All other flags are those of train_w_kd.py. Each trial is a run of
train_w_kd.py in `ROOT/trial-0000`, ...; what it prints is in `ROOT/trial-0000.log`. The value of a trial is the top-1
of its best weights on the validation split, the mean over its seeds. The test split is never used to choose.

The same command joins the search from another process, or from another host that sees the same `--root`, and together
they run `--trials` trials. A trial whose process has died is taken up by the next process that is free, and continues
from its checkpoint. `--prune` stops a trial whose accuracy is below the median of the earlier trials at the same epoch.
At the end `ROOT/search.md` has the table and `ROOT/search.png` a picture.
"""

import contextlib
import fcntl
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np

import data
import train_w_kd
from configs import resolve
from files import lock, write_whole
from registry import UserError
from signals import Interrupted, asked_to_stop
from studies import command, compare, space
from training.run_folder import METRICS, SUMMARY, read_json

PROGRAM = pathlib.Path(train_w_kd.__file__).resolve()
JOURNAL, NAME = "study.journal", "search"
SETTINGS = "search.json"
JOINED = "processes"  # how many have joined the search
POLL = 0.5  # seconds between looks at a trial
USERS_MISTAKE, INTERRUPTED = UserError.exit_code, Interrupted.exit_code


class Search:
    """A study, its folder, and the command that its trials share.

    Args:
        root: the folder of the study.
        dimensions: what is searched.
        arguments: of train_w_kd.py, shared by all trials.
        prune: whether bad trials are stopped.
        seed: of the first process's random numbers; each process draws others.
    """

    def __init__(
        self, root: pathlib.Path, dimensions: list[space.Dimension], arguments: list[str], prune: bool, seed: int
    ):
        self.root, self.dimensions, self.arguments = root, dimensions, arguments
        optuna = import_optuna()
        self.states = optuna.trial.TrialState
        settings = {"space": [[d.key, d.kind, list(d.values)] for d in dimensions], "arguments": arguments}
        pruner = optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner()
        with waiting_lock(root):
            check_same(root / SETTINGS, settings)
            backend = optuna.storages.journal.JournalFileBackend(str(root / JOURNAL), JournalLock(root / JOURNAL))
            storage = optuna.storages.JournalStorage(backend)
            self.study = optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=pruner
            )
            joined = self.study.user_attrs.get(JOINED, 0)
            self.study.set_user_attr(JOINED, joined + 1)
            self.study.sampler = optuna.samplers.TPESampler(seed=seed + joined)

    def claim(self, trials: int):
        """Takes a trial that nobody works on: one whose process has died, else a new one.

        Returns:
            (the Optuna trial, its lock), or None if the study has its trials and other processes work on the open ones.
        """
        optuna = import_optuna()
        with waiting_lock(self.root):
            for found in self.running():
                with contextlib.suppress(UserError):  # another process works on it
                    held = lock(self.locks(found.number))
                    if found.number in [trial.number for trial in self.running()]:
                        return optuna.trial.Trial(self.study, found._trial_id), held
                    held.close()  # its process has just finished it
            begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != self.states.WAITING]
            if len(begun) >= trials:
                return None
            trial = self.study.ask()
            return trial, lock(self.locks(trial.number))

    def running(self) -> list:
        """The trials that have no value yet, as the study's file has them now."""
        return self.study.get_trials(deepcopy=False, states=[self.states.RUNNING])

    def locks(self, number: int) -> pathlib.Path:
        """The folder of a trial's lock; the trial's process holds it, too, so the lock ends with both."""
        return self.root / "locks" / str(number)

    def folder(self, number: int) -> pathlib.Path:
        """The run folder of a trial."""
        return self.root / f"trial-{number:04d}"

    def run(self, trial, held, stopping) -> None:
        """Trains a trial, or continues it, and tells the study its value.

        Raises:
            Interrupted: `stopping` was set; the trial is saved.
            UserError: the trial's command is a mistake.
        """
        values = {d.key: d.suggest(trial) for d in self.dimensions}
        folder = self.folder(trial.number)
        arguments = [*self.arguments, *(f"--config.{key}={value}" for key, value in values.items())]
        print(
            f"Trial {trial.number}: {', '.join(f'{key} {shown(value)}' for key, value in values.items())}", flush=True
        )
        log = folder.with_suffix(".log")
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *arguments, "--train_path", str(folder)],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that Ctrl-C reaches it once, from here
                pass_fds=(held.fileno(),),
            )
            pruned = self._watch(trial, folder, process, stopping)
        code = process.returncode
        if pruned:
            self.study.tell(trial.number, state=self.states.PRUNED)
            print(f"Trial {trial.number}: stopped, below the median at epoch {pruned:g}", flush=True)
        elif code == 0:
            value = value_of(folder)
            self.study.tell(trial.number, value)
            print(f"Trial {trial.number}: {value:.2f} %", flush=True)
        elif code == INTERRUPTED or stopping.is_set():
            raise Interrupted(f"Trial {trial.number} is saved. The same command continues the search.")
        elif code == USERS_MISTAKE:
            self.study.tell(trial.number, state=self.states.FAIL)
            raise UserError(f"Trial {trial.number} cannot run: {last_line(log)}\nIts whole output: {log}")
        else:
            self.study.tell(trial.number, state=self.states.FAIL)
            print(f"Trial {trial.number}: failed ({last_line(log)})", flush=True)

    def _watch(self, trial, folder: pathlib.Path, process: subprocess.Popen, stopping) -> float:
        """Waits for a trial's process; reports its accuracies. Returns the epoch at which it was pruned, or 0."""
        pruned, asked = 0.0, False
        known = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        while process.poll() is None:
            time.sleep(POLL)
            for epoch, top1 in curve(folder):
                step = round(1000 * epoch)  # Optuna's steps are whole numbers
                if step in known:
                    continue
                known.add(step)
                trial.report(top1, step)
                if not pruned and trial.should_prune():
                    pruned = epoch
            if (pruned or stopping.is_set()) and not asked:
                process.send_signal(signal.SIGTERM)
                asked = True
        return 0.0 if process.returncode == 0 or stopping.is_set() else pruned


class JournalLock:
    """Locks the study's file. The kernel releases the lock of a process that dies; Optuna's own lock files stay."""

    def __init__(self, path: pathlib.Path):
        self._path, self._file = path.with_suffix(".lock"), None

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._file.close()


def import_optuna():
    """Returns the module; raises `UserError` if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("studies.search needs Optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def waiting_lock(root: pathlib.Path):
    """Holds the lock of a folder; waits while another process holds it."""
    while True:
        with contextlib.suppress(UserError):
            held = lock(root)
            break
        time.sleep(POLL)
    with held:
        yield


def check_same(path: pathlib.Path, settings: dict) -> None:
    """Writes the settings of a search, or refuses to join a search that has others."""
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=2) + "\n")
    before = json.loads(path.read_text())
    for key, value in settings.items():
        if before[key] != value:
            raise UserError(
                f"{path.parent} holds a search with another {key}: {before[key]}, not {value}.\nChoose another --root."
            )


def curve(folder: pathlib.Path) -> list[tuple[float, float]]:
    """Returns (epoch, validation top-1) of the tests that all seeds of a running trial have done; mean over them."""
    logs = sorted(folder.glob(f"s*/{METRICS}")) or sorted(folder.glob(METRICS))
    seeds = []
    for log in logs:
        lines = log.read_text().split("\n")[:-1]  # what follows the last newline is being written
        rows = (json.loads(line) for line in lines)
        seeds.append({row["epoch"]: row["top1"] for row in rows if row["kind"] == "val"})
    if not seeds:
        return []
    return [
        (epoch, float(np.mean([own[epoch] for own in seeds]))) for epoch in sorted(set.intersection(*map(set, seeds)))
    ]


def value_of(folder: pathlib.Path) -> float:
    """Returns the best validation top-1 of a finished trial, the mean over its seeds."""
    return compare.mean_of(read_json(folder / SUMMARY)["best"]["val/top1"])


def last_line(log: pathlib.Path) -> str:
    """Returns what a trial's process said last of an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines or ["no output"])[-1]


def shown(value: str) -> str:
    """Shortens a number to four digits."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def check(dimensions: list[space.Dimension], arguments: list[str]) -> None:
    """Checks the trials' command at both ends of the space, and that a validation split chooses."""
    for end in (0, 1):
        given = train_w_kd.parse([*arguments, *(f"--config.{d.key}={d.extremes[end]}" for d in dimensions)])
        if "train_path" in given.recipe and "train_path" in given.typed:
            raise UserError("Each trial has a folder of its own in --root: leave --train_path out.")
        config, _ = resolve.resolve(given.recipe, given.typed)
    keys = {key: config[key] for key in data.KEYS if key in data.options(config["dataset"])}
    if not config["val_split"] and data.load(config["dataset"], **keys).best_on != "val":
        raise UserError(
            "A search chooses on a validation split, and the data have none: add --val_split 0.1.\n"
            "Chosen on the test split, the best trial's accuracy would be too high."
        )


def report(search: Search) -> None:
    """Prints the table of the trials, best first, and writes it and the picture."""
    trials = search.study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == search.states.COMPLETE]
    keys = [d.key for d in search.dimensions]
    cells = []
    for trial in sorted(trials, key=lambda t: (t not in done, -(t.value or 0.0) if t in done else t.number)):
        result = f"{trial.value:.2f}" if trial in done else trial.state.name.lower()
        cells.append([trial.number, result, *(shown(trial.params.get(key, "")) for key in keys)])
    text = compare.markdown(["trial", "best top-1, val", *keys], cells)
    if done:
        best = search.study.best_trial
        test = compare.mean_of(read_json(search.folder(best.number) / SUMMARY)["best"]["top1"])
        chosen = [*search.arguments, *(f"--config.{key}={best.params[key]}" for key in keys)]
        text += (
            f"\n\nBest on the validation split: trial {best.number}, {best.value:.2f} %. On the test split, which "
            f"chose nothing: {test:.2f} %.\n\n```\npython train_w_kd.py {shlex.join(chosen)}\n```"
        )
    print(f"\n{text}\n", flush=True)
    write_whole(search.root / "search.md", text + "\n")
    if len(done) > 1:
        draw(search, done, search.root / "search.png")
        print(f"Table and picture: {search.root}/search.md, {search.root}/search.png", flush=True)


def draw(search: Search, done: list, path: pathlib.Path) -> None:
    """Draws each key's values against the accuracies, and the importance of the key (fANOVA)."""
    optuna = import_optuna()
    try:
        importance = optuna.importance.get_param_importances(search.study)
    except (RuntimeError, ValueError):  # all trials are equal, or too few
        importance = {}
    from matplotlib.figure import Figure

    count = len(search.dimensions)
    figure = Figure(figsize=(3.4 * count + 0.6, 3.4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for cell, dimension in zip(axes, search.dimensions, strict=True):
        values = [trial.params[dimension.key] for trial in done]
        cell.scatter(values, [trial.value for trial in done], c=[trial.number for trial in done], cmap="viridis")
        if dimension.kind == "log":
            cell.set_xscale("log")
        weight = f"\nimportance {importance[dimension.key]:.2f}" if dimension.key in importance else ""
        cell.set_title(dimension.key + weight, fontsize=9)
        cell.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("best validation top-1 (%)")
    figure.supxlabel("later trials are lighter", fontsize=8)
    figure.savefig(path, dpi=120)


def main(spaces: list[str], trials: int, prune: bool, root: pathlib.Path, seed: int, arguments: list[str]) -> None:
    """Runs trials until the study has `trials` of them, and reports."""
    dimensions = space.parse(spaces)
    import_optuna()
    check(dimensions, arguments)
    root.mkdir(parents=True, exist_ok=True)
    search = Search(root, dimensions, arguments, prune, seed)
    with asked_to_stop() as stopping:
        while (claimed := search.claim(trials)) is not None:
            trial, held = claimed
            with held:
                search.run(trial, held, stopping)
            if stopping.is_set():
                raise Interrupted("Stopped. The same command continues the search.")
    report(search)


if __name__ == "__main__":
    parser = command.parser(__doc__, "runs/search")
    parser.allow_abbrev = False
    parser.add_argument("--space", nargs="+", required=True, metavar="KEY=VALUES", dest="spaces", help="what to search")
    parser.add_argument("--trials", type=command.positive, default=30, help="number of trials in all; default: 30")
    parser.add_argument("--prune", action="store_true", help="stop trials below the median of the earlier ones")
    parser.add_argument("--search_seed", type=int, default=0, dest="seed", help="seed of the search; default: 0")
    command.call(parser, main, rest="arguments")
