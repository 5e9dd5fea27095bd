"""Explanation maps of students with labels alone, SoftLogits, AT, ExpKD and E2KD: one budget, 3 seeds, on Digits.

    python -m studies.explanation_evidence [--root runs/evidence]

The tables have accuracy, agreement, how faithful each student's maps are (area under the accuracy, percent), and how
similar its maps are to the teacher's (Spearman). Each difference is to the student of the same seed that was trained on
labels alone, with a 95 % t interval. Finished runs are kept: the same command runs only what is missing.
"""

import json
import pathlib

import numpy as np

import data
from configs import digits
from explain import pictures
from studies import command, compare, explaining, leaderboard
from studies.compare import spread

LABELS = leaderboard.LABELS
METHODS = {
    LABELS: {"transfer": "Labels"},
    **{m: {"distiller": m, "distiller_options": digits.tuned(m)} for m in ("SoftLogits", "AT", "ExpKD", "E2KD")},
}
MAPS = ("GradCAM", "InputGradient")
SEEDS = 3
IMAGES = 300


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root`, and writes `evidence.md`, `evidence.json` and `panel.png` to `root`."""
    recipe, _ = compare.teach(root, {**digits.get_config(), "seeds": SEEDS})
    rows = {row.name: row for row in compare.run_all(root, recipe, METHODS)}
    dataset, teacher = data.load(recipe["dataset"]), recipe["teacher_param"]
    folders = {name: [str(folder) for folder in row.folders] for name, row in rows.items()}
    measured = {}
    for method, params in folders.items():
        print(f"\nMaps of {method}", flush=True)
        measured[method] = explaining.measure(params, dataset, MAPS, teacher, folders[LABELS], IMAGES)
    text = "\n\n".join([accuracy(rows, recipe), *(table(measured, name) for name in MAPS)]) + "\n"
    (root / "evidence.md").write_text(text)
    (root / "evidence.json").write_text(json.dumps(measured, indent=1) + "\n")
    panel = explaining.draw("panel", [params[0] for params in folders.values()], dataset, teacher, "GradCAM", "4")
    pictures.save(panel, root / "panel.png")
    print("\n" + text, flush=True)


def accuracy(rows: dict[str, compare.Row], recipe: dict) -> str:
    """Makes a table: top-1 and agreement over the seeds, and the paired difference to labels alone, with interval."""
    cells = [
        [name, spread(row.last()), leaderboard.against(row, rows[LABELS]), spread(compare.agreement(row, recipe))]
        for name, row in rows.items()
    ]
    return compare.markdown(["", "last top-1", "against labels alone", "agreement"], cells)


def table(measured: dict, name: str) -> str:
    """Makes one map's table: faithfulness, similarity to the teacher, and the difference to labels alone."""
    cells = []
    for method, found in measured.items():
        networks = [network[name] for network in found["networks"]]
        measures = ("positive_predicted", "negative_predicted", "random")
        row = [method, *(spread(network[key] for network in networks) for key in measures)]
        likeness = [network["similarity"]["spearman"] for network in networks]
        row.append(f"{np.mean(likeness):.3f} ± {np.std(likeness, ddof=1):.3f}")
        more = found["comparison"][name]["spearman"]
        row.append("" if method == LABELS else f"{more['mean']:+.3f} [{more['low']:+.3f}, {more['high']:+.3f}]")
        cells.append(row)
    titles = ["most important first", "least important first", "random", "like the teacher's", "more than by labels"]
    return compare.markdown([name, *titles], cells)


if __name__ == "__main__":
    command.call(command.parser(__doc__, "runs/evidence"), main)
