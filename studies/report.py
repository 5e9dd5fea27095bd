"""A report page on finished runs: what was trained, how the runs compare, and what the students do not know.

    python -m studies.report runs/labels runs/soft ... --out report/

Writes `index.html` (one file: no script, nothing from the network) and `report.md`, the same with its pictures beside
it. Runs are compared if they share data, student and budget; the others stand in a part of their own. The differences
to labels alone are paired by seed, with a run of `--transfer Labels` of the same part. If `--out` holds a report, the
new one takes its place.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

import data
import files
import pretrained
from models import profile
from pretrained.players import dataset_of, player_of
from registry import UserError
from studies import command, compare, evaluation, explaining, report_page, report_pictures
from studies.compare import Row, spread
from studies.leaderboard import interval
from studies.report_page import text
from tasks.classification import per_class
from training.run_folder import CONFIG, ENV, SUMMARY, read_json

PAGE, MARKDOWN = "index.html", "report.md"
SAME = {  # what runs must share to be compared
    "other data": ("dataset", "data", "image_size", "channels", "num_labels", "val_split"),
    "another student": ("student_arch", "student_options"),
    "another budget": ("train_epoch", "batch_size", "accumulate"),
}
CLASSES = 20  # the largest number of classes in a table; if there are more, those with the largest differences
MISSED = 12  # images that the teacher knows and the student does not


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        row: its results; the name is the folder's.
        config: `config.json`.
        env: `env.json`.
        seeds: one for each of `row.folders`.
    """

    row: Row
    config: dict
    env: dict
    seeds: list[int]

    @property
    def taught(self) -> str:
        """Who taught what: "SoftLogits, Offline"."""
        method = self.config.get("distiller", "")
        return ", ".join(part for part in (method, self.config["transfer"]) if part)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the networks of a part say about the test images.

    Attributes:
        dataset: the data.
        students: name of a run -> logits [N, K] for each seed.
        teacher: the teacher's logits [N, K], or None.
        teacher_param: the teacher's weights, or "".
        costs: name of a run -> what `profile.measure` returns.
    """

    dataset: data.Dataset
    students: dict[str, list[np.ndarray]]
    teacher: np.ndarray | None
    teacher_param: str
    costs: dict[str, dict]


def read(path: pathlib.Path, name: str) -> Run:
    """Reads a finished run; raises `UserError` where there is none."""
    row = compare.read(path, name)
    config = read_json(path / CONFIG)
    env = read_json(path / ENV) if (path / ENV).exists() else {}
    return Run(row, config, env, read_json(path / SUMMARY).get("seeds", [config["seed"]]))


def names_of(paths: list[pathlib.Path]) -> list[str]:
    """Returns a name for each folder: as many of its path's last parts as tell it from the others."""
    whole = [path.resolve().parts for path in paths]
    if len(set(whole)) < len(whole):
        raise UserError("A run is named twice.")
    for depth in range(1, max(map(len, whole)) + 1):
        found = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(found)) == len(found):
            return found
    raise AssertionError("different paths have different parts")


def parts_of(runs: list[Run]) -> list[list[Run]]:
    """Groups the runs that can be compared; the largest part is first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(repr([run.config.get(key) for keys in SAME.values() for key in keys]), []).append(run)
    return sorted(found.values(), key=len, reverse=True)


def apart(part: list[Run], first: list[Run]) -> str:
    """Says in which keys the runs of a part differ from those of the first part."""
    ours, theirs = part[0].config, first[0].config
    other = {title: [key for key in keys if ours.get(key) != theirs.get(key)] for title, keys in SAME.items()}
    listed = (
        f"{title} ({', '.join(f'{key} {ours.get(key)}, not {theirs.get(key)}' for key in keys)})"
        for title, keys in other.items()
        if keys
    )
    return f"Set apart, because these runs have {' and '.join(listed)}."


def ask(part: list[Run], data_dir: str, arch: str, warn: Callable[[str], None]) -> Answers:
    """Asks the networks of a part about the test images. A teacher that is not there is told, and left out."""
    options = {"data_dir": data_dir or part[0].config.get("data_dir", "")}
    weights = {run.row.name: pretrained.load(run.row.folders[0]) for run in part}
    dataset = dataset_of(weights[part[0].row.name].info, options)
    folders = [str(folder) for run in part for folder in run.row.folders]
    logits = iter(evaluation.answers(folders, dataset, [arch] * len(folders), "network"))
    students = {run.row.name: [next(logits) for _ in run.row.folders] for run in part}
    teacher, param = None, ""
    for run in part:
        if teacher is None and run.config.get("teacher_param"):
            size, archs = run.config.get("teacher_image_size", 0), run.config.get("teacher_arch", "")
            archs = archs if ":" in archs else ""
            try:
                teacher = evaluation.teacher_answers(run.config["teacher_param"], dataset, archs, size)
                param = run.config["teacher_param"]
            except UserError as error:
                warn(f"The teacher of {run.row.name} is left out: {str(error).splitlines()[0]}")
    costs, known = {}, {}
    for name, found in weights.items():
        model = player_of(found, "network", arch=arch, dataset=dataset)[0].model
        same = (found.info["arch"], repr(found.info.get("options")), tuple(found.info["image_shape"]))
        if same not in known:
            known[same] = profile.measure(model, tuple(found.info["image_shape"]))
        costs[name] = known[same]
    return Answers(dataset, students, teacher, param, costs)


def overview(run: Run) -> str:
    """Says what was trained and how, in Markdown."""
    config, env = run.config, run.env
    labels = f"{config['num_labels']} labels, " if config.get("num_labels") else ""
    teacher = f"{config['teacher_arch'] or 'the teacher'} teaches " if config.get("teacher_param") else ""
    commit = env.get("commit") or "unknown"
    changed = " with uncommitted changes" if env.get("uncommitted_changes") else ""
    versions = env.get("versions", {})
    lines = [
        f"### {text(run.row.name)}",
        f"- **{text(run.taught)}**: {text(teacher)}{text(config['student_arch'])}",
        f"- {text(config['dataset'])}, {labels}{config['train_epoch']} epochs ({run.row.steps:,} steps of "
        f"{config['batch_size']} images), seeds {', '.join(map(str, run.seeds))}",
        f"- {len(env.get('devices', []))} x {text(', '.join(sorted(set(env.get('devices', ['unknown'])))))}, "
        f"{env.get('cpus', '?')} CPU cores, jax {versions.get('jax', 'unknown')}, commit {commit[:12]}{changed}",
    ]
    return "\n".join([lines[0], "", *lines[1:], "", "```", env.get("command", "unknown command"), "```"])


def difference(run: Run, base: Run | None) -> str:
    """Formats last top-1 minus the base's: mean of the pairs of equal seeds, 95 % interval, number of pairs."""
    if base is None or run is base:
        return ""
    pairs = [(run.seeds.index(seed), base.seeds.index(seed)) for seed in run.seeds if seed in base.seeds]
    if not pairs:
        return "no common seed"
    ours, theirs = (row.last()[[pair[side] for pair in pairs]] for side, row in enumerate((run.row, base.row)))
    mean, half = interval(ours - theirs)
    return f"{mean:+.2f} ± {half:.2f} (n = {len(pairs)})" if len(pairs) > 1 else f"{mean:+.2f} (n = 1)"


def accuracies(part: list[Run], answers: Answers) -> str:
    """Makes the table of what the runs reached, in the order of the command line."""
    base = next((run for run in part if run.config["transfer"] == "Labels"), None)
    teacher = None if answers.teacher is None else answers.teacher.argmax(axis=1)
    cells = []
    for run in part:
        predicted = [logits.argmax(axis=1) for logits in answers.students[run.row.name]]
        agrees = "" if teacher is None else spread(100 * (p == teacher).mean() for p in predicted)
        start = [text(run.row.name), text(run.taught), len(run.seeds), spread(run.row.last()), spread(run.row.best)]
        cells.append([*start, difference(run, base), agrees, spread(run.row.last("ece"))])
    best = compare.best_title([run.row for run in part])
    titles = ["run", "taught by", "n", "last top-1", best, "against labels alone", "agreement", "ECE"]
    return compare.markdown(titles, cells)


def costs(part: list[Run], answers: Answers) -> str:
    """Makes the table of what the networks and their training cost."""
    cells = []
    for run in part:
        cost = answers.costs[run.row.name]
        size = [f"{run.row.parameters:,}", profile.short(cost["multiply_adds"]), f"{1000 * cost['latency']:.2f}"]
        cells.append([text(run.row.name), *size, f"{run.row.steps:,}", f"{run.row.seconds:.1f}"])
    return compare.markdown(["run", "parameters", "multiply-adds", "latency, ms", "steps", "seconds a seed"], cells)


def classes(part: list[Run], answers: Answers) -> str:
    """Makes the table of the classes' accuracies, largest distance to the teacher (or to the mean) first."""
    names, labels = answers.dataset.class_names, answers.dataset.test.labels
    columns = {name: [per_class(z, labels, names) for z in seeds] for name, seeds in answers.students.items()}
    means = {name: {c: np.mean([seed[c] for seed in seeds]) for c in seeds[0]} for name, seeds in columns.items()}
    if answers.teacher is not None:
        means = {"teacher": per_class(answers.teacher, labels, names), **means}
    reference, others = next(iter(means.values())), list(means.values())[1:]

    def distance(name):
        return max((abs(other[name] - reference[name]) for other in others), default=-reference[name])

    shown = sorted(reference, key=distance, reverse=True)[:CLASSES]
    rows = [[text(name), *(f"{column[name]:.1f}" for column in means.values())] for name in shown]
    return compare.markdown(["class", *map(text, means)], rows)


def known_to_teacher(part: list[Run], answers: Answers) -> tuple[str, list[str]]:
    """Counts the test images on which the teacher is right and a student of the first seed is wrong.

    Returns:
        (a table, the names of the runs with such images, fewest images first).
    """
    labels = answers.dataset.test.labels
    right = answers.teacher.argmax(axis=1) == labels
    counts = {name: int((right & (z[0].argmax(axis=1) != labels)).sum()) for name, z in answers.students.items()}
    other = {name: int((~right & (z[0].argmax(axis=1) == labels)).sum()) for name, z in answers.students.items()}
    titles = ["run", "teacher right, student wrong", "student right, teacher wrong"]
    cells = [[text(name), counts[name], other[name]] for name in counts]
    return compare.markdown(titles, cells), sorted((name for name in counts if counts[name]), key=counts.get)


def section(part: list[Run], answers: Answers, map_name: str, page: report_page.Page) -> None:
    """Adds the part's table, pictures and images to the page."""
    rows = [run.row for run in part]
    page.add("## Results", accuracies(part, answers))
    page.add(
        "Top-1, agreement with the teacher and ECE (expected calibration error) are percentages of the test images, as "
        "mean ± sample standard deviation over n seeds. *Against labels alone* is the mean of the differences between "
        "runs of equal seeds, ± half of its 95 % interval (Student's t)."
    )
    page.add(costs(part, answers), "The latency is that of one image on the machine that made this report.")
    teacher = None
    if answers.teacher is not None:
        teacher = 100 * float((answers.teacher.argmax(axis=1) == answers.dataset.test.labels).mean())
        page.add(f"The teacher ({text(answers.teacher_param)}) has a top-1 of {teacher:.2f} %.")
    page.add("## Training")
    page.picture(report_pictures.curves(rows, teacher), "Accuracy over the epochs: mean and range of the seeds")
    if (figure := report_pictures.terms(rows)) is not None:
        page.picture(figure, "Above: the terms of the loss. Below: their shares of the gradient's norm. Means of seeds")
    first = {name: seeds[0] for name, seeds in answers.students.items()}
    page.add("## Confidence")
    figure = report_pictures.reliability(first, answers.teacher, answers.dataset.test.labels)
    least = report_pictures.LEAST
    page.picture(figure, f"Accuracy over confidence, first seeds; bins of {least} images or more")
    page.add("## Classes", "Accuracy of each class in percent, mean of the seeds.", classes(part, answers))
    if answers.teacher is not None:
        counts, missing = known_to_teacher(part, answers)
        page.add("## What the teacher knows and the student does not", counts)
        if missing:
            figure = report_pictures.missed(answers.dataset, answers.teacher, first[missing[0]], MISSED)
            page.picture(figure, f"Images that the teacher knows and {missing[0]} does not, the teacher's surest first")
    page.add("## Where they look")
    params = [str(run.row.folders[0]) for run in part[:4]]
    figure = explaining.draw("panel", params, answers.dataset, answers.teacher_param, map_name, images="4")
    page.picture(figure, f"{map_name}, first seeds" + f" of the first {len(params)} runs" * (len(part) > len(params)))


def main(runs: list[pathlib.Path], out: pathlib.Path, data_dir: str = "", arch: str = "", map: str = "GradCAM") -> None:
    """Writes the report on finished runs to the folder `out`."""
    explaining.check_maps([map])
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / PAGE).exists())):
        raise UserError(f"{out} holds something else than a report. Choose another --out.")
    found = [read(path, name) for path, name in zip(runs, names_of(runs), strict=True)]
    parts = parts_of(found)
    page = report_page.Page(f"Report on {len(found)} run{'s' * (len(found) > 1)}")
    for part in parts:
        page.add(f"# {text(part[0].config['dataset'])}, {text(part[0].config['student_arch'])}" * (len(parts) > 1))
        page.add(apart(part, parts[0]) if part is not parts[0] else "")
        notes: list[str] = []
        answers = ask(part, data_dir, arch, notes.append)
        section(part, answers, map, page)
        page.add(*(f"**Note.** {text(note)}" for note in notes))
    page.add("# What was trained", *[overview(run) for run in found])
    try:
        with files.whole_folder(out) as folder:
            page.write(folder / PAGE, folder / MARKDOWN)
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror}.") from None
    print(f"Report: {out / PAGE} (the same as Markdown: {out / MARKDOWN})", flush=True)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report"), help="folder; default: report")
    parser.add_argument("--data_dir", default="", help="the data's folder, if it has moved since the training")
    parser.add_argument("--arch", default="", help="the students' network, if its code is your own: module:attribute")
    parser.add_argument("--map", default="GradCAM", help="explanation map of the last picture; default: GradCAM")
    command.call(parser, main)
