"""Methods side by side: the same student, budget and seeds, a table and the training curves."""

import argparse
import dataclasses
import json
import pathlib

import numpy as np

import data
from benchmarks.step import positive
from registry import UserError
from training import cli, cpu, evaluation, run_folder
from training.run import train


def command(doc: str, root: str) -> argparse.ArgumentParser:
    """A parser with the module's text as help and `--root`, where its runs are kept."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(root), help=f"of the runs; default: {root}")
    return parser


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Whole numbers between commas, each 1 or more; at least one."""
    found = [positive(name) for name in names(text)]
    if not found:
        raise argparse.ArgumentTypeError("give at least one number")
    return found


def call(parser: argparse.ArgumentParser, main) -> None:
    """`main` with the command line's values; ends the process, with `main`'s number of failures as 0 or 1.

    A user's mistake is one line and its exit code.
    """
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        parser.exit(min(main(**vars(arguments)) or 0, 1))
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")


def teach(root: pathlib.Path, recipe: dict, **changes) -> tuple[dict, dict]:
    """Trains the recipe's teacher on all labels in `root/teacher`, or takes up what is there.

    Returns:
        (the recipe with the teacher's weights, the row of it that `report` wants).
    """
    arch, folder = recipe["teacher_arch"], str(root / "teacher")
    print(f"Teacher {arch}, on all labels", flush=True)
    alone = {"student_arch": arch, "teacher_arch": "", "transfer": "Labels", "num_labels": 0, "train_path": folder}
    summary = train({**recipe, **alone, **changes})
    return {**recipe, "teacher_param": folder}, {"arch": arch, "summary": summary}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: its label in the table, seed, summary, and rows of test metrics."""

    method: str
    seed: int
    summary: dict
    tests: list[dict]


def run_all(root: pathlib.Path, recipe: dict, methods: dict[str, dict], seeds) -> list[Result]:
    """Trains each method with each seed, or takes up what is there, and measures agreement with the teacher.

    Args:
        root: each run is `root/<method>-s<seed>`.
        recipe: what all runs share, `teacher_param` among it.
        methods: label -> the config keys it changes.
        seeds: ints.
    """
    dataset = data.load(recipe["dataset"], recipe.get("data_dir", ""))
    results = []
    for seed in seeds:
        for label, changes in methods.items():
            path = folder_of(root, label, seed)
            print(f"\n{label}, seed {seed}", flush=True)
            summary = train({**recipe, **changes, "seed": seed, "train_path": str(path)})
            if "agreement" not in summary["last"]:
                measured = evaluation.measure(str(path), dataset, recipe["teacher_param"])
                summary["last"]["agreement"] = measured["agreement"]
            results.append(Result(label, seed, summary, read_rows(path, "test")))
    return results


def folder_of(root: pathlib.Path, label: str, seed: int) -> pathlib.Path:
    """Where `run_all` keeps a run."""
    return root / f"{label.lower().replace(' ', '-')}-s{seed}"


def read_rows(folder: pathlib.Path, kind: str) -> list[dict]:
    """The rows of one kind in a run's `metrics.jsonl`."""
    lines = (folder / run_folder.METRICS).read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def spread(values) -> str:
    """Mean and sample standard deviation."""
    values = np.asarray(list(values), float)
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def table(results: list[Result]) -> str:
    """Markdown, one row a method: top-1 and agreement in percent over the seeds, parameters, seconds of training."""
    lines = ["| | last top-1 | best top-1 | agreement | parameters | seconds |", "|---|---|---|---|---|---|"]
    for method in dict.fromkeys(r.method for r in results):
        runs = [r.summary for r in results if r.method == method]
        cells = [
            spread(r["last"]["top1"] for r in runs),
            spread(r["best"]["top1"] for r in runs),
            spread(r["last"]["agreement"] for r in runs) if "agreement" in runs[0]["last"] else "",
            f"{runs[0]['parameters']:,}",
            f"{np.mean([r['seconds'] for r in runs]):.1f}",
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(results: list[Result], path: pathlib.Path, title: str, teacher_top1: float) -> None:
    """Test accuracy over epochs, mean and range over the seeds, one line a method; PNG or SVG by the suffix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe, Ito: colour-blind safe
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    shown = []
    for colour, method in zip(colours, dict.fromkeys(r.method for r in results), strict=False):
        runs = [r.tests for r in results if r.method == method]
        epochs = [row["epoch"] for row in runs[0]]
        top1 = np.asarray([[row["top1"] for row in rows] for rows in runs])
        axes.plot(epochs, top1.mean(axis=0), color=colour, label=method)
        axes.fill_between(epochs, top1.min(axis=0), top1.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        shown.append(top1.mean(axis=0)[len(epochs) // 4 :].min())
    axes.axhline(teacher_top1, color="#555555", linestyle="--", linewidth=1, label="teacher")
    low = min(shown)
    axes.set_ylim(low - 0.15 * (100 - low), min(100.5, max(teacher_top1, *shown) + 0.4 * (teacher_top1 - low) + 1))
    axes.set(xlabel="epoch", ylabel="test top-1 (%)", title=title)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(root: pathlib.Path, results: list[Result], teacher: dict, title: str) -> None:
    """Prints the table with the teacher's row on top and writes `table.md` and `curves.png` to `root`."""
    rows = [Result("Teacher " + teacher["arch"], 0, teacher["summary"], []), *results]
    text = f"{title}\n\n{table(rows)}\n"
    print("\n" + text, flush=True)
    (root / "table.md").write_text(text)
    curves(results, root / "curves.png", title, teacher["summary"]["last"]["top1"])
    print(f"Table and curves: {root}/table.md, {root}/curves.png", flush=True)
