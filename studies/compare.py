"""Methods compared with the same student, budget and seeds: a table and the training curves."""

import dataclasses
import json
import pathlib

import numpy as np

import data
from registry import UserError
from studies import evaluation
from training.run_folder import CONFIG, METRICS, SUMMARY, read_json
from training.train import train

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe, Ito: colour-blind safe


@dataclasses.dataclass(frozen=True)
class Row:
    """A finished run.

    Attributes:
        name: the row's name in a table.
        changes: the config keys in which the run differs from the study's recipe.
        folders: one folder for each seed; its `last/` has the weights.
        tests: one list for each seed: the rows of test metrics in `metrics.jsonl`. A run whose best weights were chosen
            on validation images has one row, of the last epoch.
        curve: one list for each seed: the rows of the split that was tested after the epochs.
        logs: one list for each seed: all rows of `metrics.jsonl`.
        best: [seeds] test top-1 of the best weights, in percent.
        best_on: the split that chose them, "val" or "test".
        parameters: number of the student's parameters.
        seconds: training time of one seed.
        steps: number of steps of one seed.
    """

    name: str
    changes: dict
    folders: list[pathlib.Path]
    tests: list[list[dict]]
    curve: list[list[dict]]
    logs: list[list[dict]]
    best: np.ndarray
    best_on: str
    parameters: int
    seconds: float
    steps: int

    def last(self, metric: str = "top1") -> np.ndarray:
        """Returns a metric of the last epoch, [seeds]."""
        return np.array([rows[-1][metric] for rows in self.tests])


def run(path: pathlib.Path, name: str, recipe: dict, changes: dict, quiet: bool = False) -> Row:
    """Trains the recipe with its changes in the folder `path`, or reads the finished run in `path`."""
    train({**recipe, **changes, "train_path": str(path)}, quiet=quiet)
    return read(path, name, changes)


def read(path: pathlib.Path, name: str, changes: dict | None = None) -> Row:
    """Reads the finished run in the folder `path`.

    Raises:
        UserError: no finished run, a damaged one, or one without top-1: of detectors, or of data without labels.
    """
    if not (path / SUMMARY).exists():
        missing = "is not finished: repeat its command" if (path / CONFIG).exists() else "holds no run"
        raise UserError(f"{path} {missing}.")
    summary = read_json(path / SUMMARY)
    folders = [path / f"s{seed}" for seed in summary["seeds"]] if "seeds" in summary else [path]
    summaries = [read_json(folder / SUMMARY) for folder in folders]
    if "top1" not in (best := summaries[0]["best"]):
        kind = "detectors" if "AP" in best else "networks without labels"
        raise UserError(
            f"{path} is a run of {kind}, and tables and reports compare the top-1 of classifiers.\n"
            "Take evaluate.py and explain.py for it."
        )
    logs = [list(map(json.loads, (folder / METRICS).read_text().splitlines())) for folder in folders]
    best_on = summaries[0].get("best_on", "test")

    def rows(kind):
        return [[row for row in log if row["kind"] == kind] for log in logs]

    return Row(
        name=name,
        changes=changes or {},
        folders=folders,
        tests=rows("test"),
        curve=rows(best_on),
        logs=logs,
        best=np.array([own["best"]["top1"] for own in summaries]),
        best_on=best_on,
        parameters=summary["parameters"],
        seconds=summary["seconds"] / len(folders),
        steps=summary["steps"],
    )


def run_all(root: pathlib.Path, recipe: dict, methods: dict[str, dict]) -> list[Row]:
    """Trains each method, or reads the runs that are finished.

    Args:
        root: each run is `root/<method>`.
        recipe: the config keys that all runs share, including `seeds` and `teacher_param`.
        methods: name -> the config keys that the method changes.
    """
    rows = []
    for name, changes in methods.items():
        print(f"\n{name}", flush=True)
        rows.append(run(root / folder_name(name), name, recipe, changes))
    return rows


def folder_name(name: str) -> str:
    """Returns the name of a row's folder in its study's folder."""
    return name.lower().replace(" ", "-")


def teach(root: pathlib.Path, recipe: dict, **changes) -> tuple[dict, Row]:
    """Trains the recipe's teacher with one seed on all labels in `root/teacher`, or reads the finished run.

    Returns:
        (the recipe with the teacher's weights, the teacher's row).
    """
    arch, path = recipe["teacher_arch"], root / "teacher"
    print(f"Teacher {arch}, on all labels", flush=True)
    alone = {"student_arch": arch, "teacher_arch": "", "transfer": "Labels", "num_labels": 0, "seeds": 1}
    row = run(path, f"Teacher {arch}", recipe, {**alone, **changes})
    return {**recipe, "teacher_param": str(path)}, row


def agreement(row: Row, recipe: dict) -> np.ndarray:
    """Returns the percentage of test images for which student and recipe's teacher predict the same class, [seeds].

    A run with a teacher has logged this agreement. For a student trained on labels alone it is computed here.
    """
    if "agreement" in row.tests[0][-1]:
        return row.last("agreement")
    dataset = data.load(recipe["dataset"], **{key: recipe[key] for key in data.KEYS if key in recipe})
    size = recipe.get("teacher_image_size", 0)
    teacher = evaluation.teacher_answers(recipe["teacher_param"], dataset, image_size=size).argmax(axis=1)
    students = evaluation.answers(list(map(str, row.folders)), dataset, [""] * len(row.folders), "network")
    return np.array([100 * (logits.argmax(axis=1) == teacher).mean() for logits in students])


def mean_of(value: float | dict) -> float:
    """The number of a `summary.json`: of one seed as it is, of several seeds their mean."""
    return float(value["mean"] if isinstance(value, dict) else value)


def spread(values) -> str:
    """Formats the mean and the sample standard deviation of the values."""
    values = np.asarray(list(values), float)
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def markdown(titles, rows) -> str:
    """Makes a Markdown table from the titles of the columns and a sequence of cells for each row."""
    head, *lines = (f"| {' | '.join(map(str, cells))} |" for cells in (titles, *rows))
    return "\n".join([head, "|---" * len(titles) + "|", *lines])


def table(teacher: Row, rows: list[Row], recipe: dict) -> str:
    """Makes the table, teacher first: top-1 and agreement in percent over the seeds, parameters, training seconds."""
    agreements = ["", *(spread(agreement(row, recipe)) for row in rows)]
    cells = [
        [row.name, spread(row.last()), spread(row.best), agrees, f"{row.parameters:,}", f"{row.seconds:.1f}"]
        for row, agrees in zip([teacher, *rows], agreements, strict=True)
    ]
    return markdown(["", "last top-1", best_title([teacher, *rows]), "agreement", "parameters", "seconds"], cells)


def best_title(rows: list[Row]) -> str:
    """The title of a column of best top-1; says which split chose the weights."""
    splits = " or ".join(sorted({row.best_on for row in rows}))
    return f"best top-1, chosen on {splits}"


def figure(width: float):
    """Makes a figure. Returns the figure and its axes, without a frame on top and at the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, axes = pyplot.subplots(figsize=(width, 4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def curves(rows: list[Row], path: pathlib.Path, title: str, teacher_top1: float) -> None:
    """Draws accuracy over epochs on the split that was tested after them; PNG or SVG by suffix.

    Each method has a line, the mean over the seeds, and an area, the range over the seeds.
    """
    made, axes = figure(7)
    shown = []
    for colour, row in zip(COLOURS, rows, strict=False):
        epochs = [test["epoch"] for test in row.curve[0]]
        top1 = np.asarray([[test["top1"] for test in tests] for tests in row.curve])
        axes.plot(epochs, top1.mean(axis=0), color=colour, label=row.name)
        axes.fill_between(epochs, top1.min(axis=0), top1.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        shown.append(top1.mean(axis=0)[len(epochs) // 4 :].min())
    axes.axhline(teacher_top1, color="#555555", linestyle="--", linewidth=1, label="teacher")
    low = min(shown)
    axes.set_ylim(low - 0.15 * (100 - low), min(100.5, max(teacher_top1, *shown) + 0.4 * (teacher_top1 - low) + 1))
    split = "validation" if rows[0].best_on == "val" else "test"
    axes.set(xlabel="epoch", ylabel=f"{split} top-1 (%)", title=title)
    axes.legend(frameon=False, loc="lower right")
    made.savefig(path, dpi=120)


def report(root: pathlib.Path, teacher: Row, rows: list[Row], recipe: dict, title: str) -> None:
    """Prints the table, and writes `table.md` and `curves.png` to `root`."""
    text = f"{title}\n\n{table(teacher, rows, recipe)}\n"
    print("\n" + text, flush=True)
    (root / "table.md").write_text(text)
    curves(rows, root / "curves.png", title, float(teacher.last()[0]))
    print(f"Table and curves: {root}/table.md, {root}/curves.png", flush=True)
