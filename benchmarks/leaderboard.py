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
from training import run_folder
from training.run import train

LABELS = "Labels alone"
COLUMNS = "| | last top-1 | against labels alone | best top-1 | step / {unit} | epochs | beside it, last top-1 |"


@dataclasses.dataclass(frozen=True)
class Row:
    """A finished run over several seeds.

    Attributes:
        name: the method's or strategy's.
        last, best: [seeds] top-1 in percent.
        seconds: of training, per step and seed.
        changes: the config keys that it changed.
        epochs: of a run: a method's first phase or a strategy's generations come on top of those asked for.
        others: learner or ensemble beside the student -> its last top-1, [seeds] each.
    """

    name: str
    last: np.ndarray
    best: np.ndarray
    seconds: float
    changes: dict
    epochs: int
    others: dict[str, np.ndarray]


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
            tests = [read_rows(folder, "test") for folder in folders]
            summaries = [run_folder.read_json(folder / run_folder.SUMMARY) for folder in folders]
            best = np.array([s["best"]["top1"] for s in summaries])
            ends = {k: np.array([t[-1][k] for t in tests]) for k in tests[0][-1] if k == "top1" or k.endswith("/top1")}
            last, cost = ends.pop("top1"), summary["seconds"] / summary["steps"] / len(folders)
            others = {key.removesuffix("/top1"): values for key, values in ends.items()}
            rows.append(Row(name, last, best, cost, changes, round(tests[0][-1]["epoch"]), others))
            print(f"{name}: {spread(last)}", flush=True)
    for name, message in failed.items():
        print(f"FAILED {name}: {message}", file=sys.stderr, flush=True)
    return rows, failed


def table(rows: list[Row], failed: dict[str, str], unit: str = "SoftLogits") -> str:
    """Markdown, best first: mean and deviation over the seeds, paired difference with its 95 % interval, cost.

    The cost of a step is given in those of the row `unit`.
    """
    by_name = {row.name: row for row in rows}
    base, standard = by_name[LABELS], by_name.get(unit)
    lines = [COLUMNS.format(unit=unit), "|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: -row.last.mean()):
        mean, half = interval(row.last - base.last)
        against = "" if row is base else f"{mean:+.2f} ± {half:.2f}"
        cost = f"{row.seconds / standard.seconds:.2f}" if standard else ""
        others = ", ".join(f"{name} {spread(values)}" for name, values in row.others.items())
        cells = (row.name, spread(row.last), against, spread(row.best), cost, row.epochs, others)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [f"| {name} | failed: {message} | | | | | |" for name, message in failed.items()]
    return "\n".join(lines)


def write(root: pathlib.Path, title: str, rows: list[Row], failed: dict[str, str], unit: str = "SoftLogits") -> str:
    """Writes `leaderboard.md` and `leaderboard.json` to `root`, prints the table and returns it."""
    text = f"{title}\n\n{table(rows, failed, unit)}\n"
    (root / "leaderboard.md").write_text(text)
    content = [
        {
            "name": row.name,
            "last": row.last.tolist(),
            "best": row.best.tolist(),
            "others": {name: values.tolist() for name, values in row.others.items()},
            "epochs": row.epochs,
            "seconds_per_step": row.seconds,
            "config": row.changes,
        }
        for row in rows
    ]
    (root / "leaderboard.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n" + text, flush=True)
    return text
