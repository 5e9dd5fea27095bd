"""Leaderboards: one row a method or strategy, against the student of the same seed that learns from labels alone."""

import dataclasses
import json
import pathlib
import sys
import traceback

import numpy as np
from scipy import stats

from benchmarks.compare import read_rows, spread
from registry import UserError
from training.run import train

LABELS = "Labels alone"
COLUMNS = "| | last top-1 | against labels alone | best top-1 | step / SoftLogits |\n|---|---|---|---|---|"


@dataclasses.dataclass(frozen=True)
class Row:
    """A finished run over several seeds.

    Attributes:
        name: the method's or strategy's.
        last, best: [seeds] top-1 in percent.
        seconds: of training, per step and seed.
        changes: the config keys that it changed.
    """

    name: str
    last: np.ndarray
    best: np.ndarray
    seconds: float
    changes: dict


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Mean of paired differences and half of its 95 % interval (Student's t); the half is NaN for a single pair."""
    n = len(differences)
    if n < 2:
        return float(np.mean(differences)), float("nan")
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n)
    return float(np.mean(differences)), float(half)


def run(root: pathlib.Path, recipe: dict, entries: dict[str, dict]) -> tuple[list[Row], dict[str, str]]:
    """Trains each entry with the recipe's seeds, or takes up what is there.

    Args:
        root: each run is `root/<entry>`.
        recipe: what all runs share; `seeds` among it.
        entries: name -> the config keys it changes.

    Returns:
        (the rows; entry -> message, for those that failed).
    """
    rows, failed = [], {}
    for name, changes in entries.items():
        path = root / name.lower().replace(" ", "-")
        print(f"{name} ...", flush=True)
        try:
            summary = train({**recipe, **changes, "train_path": str(path)}, quiet=True)
        except UserError as error:
            if error.exit_code == 75:
                raise
            failed[name] = str(error).splitlines()[0]
        except Exception as error:  # one method's defect must not end the others' runs; it is shown and counted
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            folders = [path / f"s{seed}" for seed in summary["seeds"]] if "seeds" in summary else [path]
            tests = [[row["top1"] for row in read_rows(folder, "test")] for folder in folders]
            last, best = np.array([t[-1] for t in tests]), np.array([max(t) for t in tests])
            rows.append(Row(name, last, best, summary["seconds"] / summary["steps"] / len(folders), changes))
            print(f"{name}: {spread(last)}", flush=True)
    for name, message in failed.items():
        print(f"FAILED {name}: {message}", file=sys.stderr, flush=True)
    return rows, failed


def table(rows: list[Row], failed: dict[str, str]) -> str:
    """Markdown, best first: mean and deviation over the seeds, paired difference with its 95 % interval, cost."""
    by_name = {row.name: row for row in rows}
    base, unit = by_name[LABELS], by_name.get("SoftLogits")
    lines = [COLUMNS]
    for row in sorted(rows, key=lambda row: -row.last.mean()):
        mean, half = interval(row.last - base.last)
        against = "" if row is base else f"{mean:+.2f} ± {half:.2f}"
        cost = f"{row.seconds / unit.seconds:.2f}" if unit else ""
        lines.append(f"| {row.name} | {spread(row.last)} | {against} | {spread(row.best)} | {cost} |")
    lines += [f"| {name} | failed: {message} | | | |" for name, message in failed.items()]
    return "\n".join(lines)


def write(root: pathlib.Path, title: str, rows: list[Row], failed: dict[str, str]) -> str:
    """Writes `leaderboard.md` and `leaderboard.json` to `root`, prints the table and returns it."""
    text = f"{title}\n\n{table(rows, failed)}\n"
    (root / "leaderboard.md").write_text(text)
    content = [
        {
            "name": row.name,
            "last": row.last.tolist(),
            "best": row.best.tolist(),
            "seconds_per_step": row.seconds,
            "config": row.changes,
        }
        for row in rows
    ]
    (root / "leaderboard.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n" + text, flush=True)
    return text
