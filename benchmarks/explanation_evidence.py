"""What students learn to look at: labels alone, SoftLogits, AT, ExpKD and E2KD at one budget, 3 seeds, on Digits.

python -m benchmarks.explanation_evidence [--root runs/evidence]

Accuracy, agreement, how faithful each student's maps are (areas under the accuracy, percent), and how alike the
teacher's (Spearman); differences are paired with the student by labels of the same seed, with 95 % t intervals.
Finished runs are kept: the same command continues.
"""

import json
import pathlib

import numpy as np

import data
from benchmarks import compare, leaderboard
from configs import digits
from explain import pictures
from studies import explaining

LABELS = "Labels alone"
METHODS = {
    LABELS: {"transfer": "Labels"},
    "SoftLogits": {"distiller": "SoftLogits"},
    "AT": {"distiller": "AT"},
    "ExpKD": {"distiller": "ExpKD"},
    "E2KD": {"distiller": "E2KD"},
}
MAPS = ("GradCAM", "InputGradient")
SEEDS = (0, 1, 2)
IMAGES = 300


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root`, writes `evidence.md`, `evidence.json` and `panel.png` to it."""
    recipe, _ = compare.teach(root, dict(digits.get_config()))
    results = compare.run_all(root, recipe, METHODS, SEEDS)
    dataset = data.load(recipe["dataset"])
    folders = {method: [str(compare.folder_of(root, method, seed)) for seed in SEEDS] for method in METHODS}
    measured = {}
    for method, params in folders.items():
        print(f"\nMaps of {method}", flush=True)
        measured[method] = explaining.measure(params, dataset, MAPS, recipe["teacher_param"], folders[LABELS], IMAGES)
    text = "\n\n".join([accuracy(results), *(table(measured, name) for name in MAPS)]) + "\n"
    (root / "evidence.md").write_text(text)
    (root / "evidence.json").write_text(json.dumps(measured, indent=1) + "\n")
    panel = explaining.draw(
        "panel", [params[0] for params in folders.values()], dataset, recipe["teacher_param"], "GradCAM", "4"
    )
    pictures.save(panel, root / "panel.png")
    print("\n" + text, flush=True)


def accuracy(results: list[compare.Result]) -> str:
    """Markdown: top-1 and agreement over the seeds, and the paired difference to labels alone with its interval."""
    lines = ["| | last top-1 | against labels alone | agreement |", "|---|---|---|---|"]
    by_method = {m: [r.summary["last"] for r in results if r.method == m] for m in METHODS}
    base = np.array([row["top1"] for row in by_method[LABELS]])
    for method, rows in by_method.items():
        top1 = np.array([row["top1"] for row in rows])
        mean, half = leaderboard.interval(top1 - base)
        against = "" if method == LABELS else f"{mean:+.2f} ± {half:.2f}"
        agreement = compare.spread(row["agreement"] for row in rows)
        lines.append(f"| {method} | {compare.spread(top1)} | {against} | {agreement} |")
    return "\n".join(lines)


def table(measured: dict, name: str) -> str:
    """Markdown of one map: faithfulness over the seeds, likeness to the teacher and its difference to labels alone."""
    head = ("most important first", "least important first", "random", "like the teacher's", "more than by labels")
    lines = [f"| {name} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for method, found in measured.items():
        rows = [network[name] for network in found["networks"]]
        measures = ("positive_predicted", "negative_predicted", "random")
        cells = [compare.spread(row[key] for row in rows) for key in measures]
        likeness = [row["similarity"]["spearman"] for row in rows]
        cells.append(f"{np.mean(likeness):.3f} ± {np.std(likeness, ddof=1):.3f}")
        more = found["comparison"][name]["spearman"]
        cells.append("" if method == LABELS else f"{more['mean']:+.3f} [{more['low']:+.3f}, {more['high']:+.3f}]")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    compare.call(compare.command(__doc__, "runs/evidence"), main)
