"""Leaderboards: one row for each method or strategy, compared with the student of the same seed on labels alone."""

import json
import pathlib
import sys
import traceback

import numpy as np
from scipy import stats

from registry import UserError
from studies import compare
from studies.compare import Row, spread

LABELS = "Labels alone"
INTERRUPTED = 75  # exit code of a run that a signal ended


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns the mean of paired differences and half of its 95 % interval (Student's t); NaN for a single pair."""
    n = len(differences)
    if n < 2:
        return float(np.mean(differences)), float("nan")
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n)
    return float(np.mean(differences)), float(half)


def against(row: Row, base: Row) -> str:
    """Formats the row's last top-1 minus the base's, paired by seed, with its 95 % interval; empty for the base."""
    mean, half = interval(row.last() - base.last())
    return "" if row is base else f"{mean:+.2f} ± {half:.2f}"


def run(root: pathlib.Path, recipe: dict, entries: dict[str, dict]) -> tuple[list[Row], dict[str, str]]:
    """Trains each entry, or reads the runs that are finished. If an entry fails, the others still run.

    Args:
        root: each run is `root/<entry>`.
        recipe: the config keys that all runs share, including `seeds`.
        entries: name -> the config keys that the entry changes.

    Returns:
        (the rows; entry -> message, for the entries that failed).
    """
    rows, failed = [], {}
    for name, changes in entries.items():
        print(f"{name} ...", flush=True)
        try:
            rows.append(compare.run(root / compare.folder_name(name), name, recipe, changes, quiet=True))
            print(f"{name}: {spread(rows[-1].last())}", flush=True)
        except UserError as error:
            if error.exit_code == INTERRUPTED:
                raise
            failed[name] = str(error).splitlines()[0]
        except Exception as error:  # a defect of one method; its traceback is shown, and the failure is counted
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    for name, message in failed.items():
        print(f"FAILED {name}: {message}", file=sys.stderr, flush=True)
    return rows, failed


def others(row: Row) -> dict[str, np.ndarray]:
    """Returns name of each learner or ensemble beside the student -> its last top-1, [seeds]."""
    keys = [key for key in row.tests[0][-1] if key.endswith("/top1")]
    return {key.removesuffix("/top1"): row.last(key) for key in keys}


def table(rows: list[Row], failed: dict[str, str], unit: str) -> str:
    """Makes the table, best row first: mean and deviation over the seeds, paired difference with its interval, cost.

    The cost of a step is given in steps of the row `unit`. The epochs are those of the whole run, with a method's first
    phase and all generations of a strategy.
    """
    by_name = {row.name: row for row in rows}
    standard = by_name.get(unit)
    cells = []
    for row in sorted(rows, key=lambda row: -row.last().mean()):
        cost = f"{row.seconds / row.steps * standard.steps / standard.seconds:.2f}" if standard else ""
        beside = ", ".join(f"{name} {spread(values)}" for name, values in others(row).items())
        epochs = round(row.tests[0][-1]["epoch"])
        start = [row.name, spread(row.last()), against(row, by_name[LABELS]), spread(row.best)]
        cells.append([*start, cost, epochs, beside])
    cells += [[name, f"failed: {message}", *[""] * 5] for name, message in failed.items()]
    titles = ["", "last top-1", "against labels alone", compare.best_title(rows), f"step / {unit}", "epochs"]
    return compare.markdown([*titles, "beside it, last top-1"], cells)


def write(root: pathlib.Path, title: str, rows: list[Row], failed: dict[str, str], unit: str = "SoftLogits") -> None:
    """Prints the table, and writes `leaderboard.md` and `leaderboard.json` to `root`."""
    text = f"{title}\n\n{table(rows, failed, unit)}\n"
    (root / "leaderboard.md").write_text(text)
    content = [
        {
            "name": row.name,
            "last": row.last().tolist(),
            "best": row.best.tolist(),
            "best_on": row.best_on,
            "others": {name: values.tolist() for name, values in others(row).items()},
            "seconds_per_step": row.seconds / row.steps,
            "config": row.changes,
        }
        for row in rows
    ]
    (root / "leaderboard.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n" + text, flush=True)
