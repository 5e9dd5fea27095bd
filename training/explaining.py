"""Explanation maps of trained weights: one call for the pictures of `explain.py`, one for `evaluate.py --explain`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import data
import explain
import pretrained
from explain import charts, pictures
from explain.faithfulness import compare, faithfulness, likeness
from explain.subject import Subject
from registry import UserError, unknown
from training import run_folder
from training.evaluation import check_fits, player_of

KINDS = ("panel", "training", "tsne", "correlation", "confusion", "reliability")
IMAGES = {"panel": 6, "training": 4, "tsne": 1000}  # how many where the user says nothing; else all
MAP_KINDS = ("panel", "training")
LEAST = {"tsne": 10, "correlation": 2}  # fewest different images that there is something to see of
EPOCHS = 8  # most columns of the strip over the training


def subject_of(path: str, dataset: data.Dataset, role: str, arch: str = "") -> Subject:
    """The network in `path`, checked against the data and named after its run; the teacher after its architecture.

    Raises:
        UserError: no weights there, or they do not fit the data.
    """
    weights = pretrained.load(path)
    check_fits(weights, dataset, role)
    player, variables = player_of(weights, role, arch=arch)
    folder = weights.folder.resolve()
    run = {"last": folder.parent.name, "best": f"{folder.parent.name} best"}.get(folder.name, folder.name)
    if folder.parent.name == run_folder.EPOCHS:
        run = f"epoch {weights.info['epoch']}"
    name = f"teacher {weights.info['arch']}" if role == "teacher" else run
    return Subject(name, player.model, variables, player.mean, player.std)


def check_maps(names: Sequence[str]) -> list:
    """The maps of these names; `UserError` with the nearest for an unknown one."""
    return [explain.create(name) for name in names]


def chosen(images: str, count: int, otherwise: int) -> np.ndarray:
    """Which of `count` images `--images` means: evenly spaced ones for a number, or the listed positions.

    Args:
        images: "12", or positions "3,17,25" (a single one: "3,"); empty: `otherwise` images (0: all).
        count: how many there are.

    Raises:
        UserError: no such images.
    """
    try:
        listed = [int(part) for part in images.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--images is a number of images or positions such as 3,17,25; got '{images}'.") from None
    if "," in images:
        if not listed or min(listed) < 0 or max(listed) >= count:
            raise UserError(f"--images {images}: the test split has the positions 0 to {count - 1}.")
        return np.asarray(listed)
    wanted = listed[0] if listed else otherwise or count
    if wanted < 1 or (listed and wanted > count):
        raise UserError(f"--images {wanted}: the test split has 1 to {count} images to choose.")
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int)


def draw(
    kind: str,
    params: Sequence[str],
    dataset: data.Dataset,
    teacher_param: str = "",
    map_name: str = "GradCAM",
    images: str = "",
    arch: str = "",
    teacher_arch: str = "",
) -> Figure:
    """A picture of networks on a dataset's test split.

    Args:
        kind: one of `KINDS`.
        params: folders of the students' weights, or runs.
        dataset: to look at.
        teacher_param: the teacher's; correlation needs one.
        map_name: of `explain.names()`, for panel and training.
        images: `chosen`.
        arch, teacher_arch: as in `evaluation.player_of`.

    Raises:
        UserError: what is missing or does not fit.
    """
    if kind not in KINDS:
        raise unknown("kind of picture", kind, KINDS)
    (rule,) = check_maps([map_name])
    if kind == "correlation" and not teacher_param:
        raise UserError("--kind correlation compares with a teacher: add --teacher_param.")
    if kind == "training":
        params = epochs_of(params)
    teachers = [subject_of(teacher_param, dataset, "teacher", teacher_arch)] if teacher_param else []
    students = _apart([*teachers, *(subject_of(path, dataset, "network", arch) for path in params)])[len(teachers) :]
    index = chosen(images, len(dataset.test), IMAGES.get(kind, 0))
    if len(set(index)) < LEAST.get(kind, 1):
        raise UserError(f"--kind {kind} needs {LEAST[kind]} images or more; --images chose {len(set(index))}.")
    pixels, labels, names = dataset.test.images[index], dataset.test.labels[index], dataset.class_names
    subjects = [*students, *teachers] if kind == "training" else [*teachers, *students]
    answers = {s.name: s.answers(pixels) for s in subjects}
    logits = {name: pair[0] for name, pair in answers.items()}
    where = f"{dataset.name} test, {len(index):,} images"
    if kind in MAP_KINDS:
        return _maps(kind, subjects, teachers, rule, map_name, pixels, labels, logits, dataset)
    if kind == "tsne":
        return charts.tsne({n: pair[1] for n, pair in answers.items()}, labels, names, f"t-SNE of embeddings, {where}")
    if kind == "correlation":
        return charts.correlation(logits, teachers[0].name, names, f"Correlations between class logits, {where}")
    if kind == "confusion":
        return charts.confusion(logits, labels, names, f"Confusion matrices, {where}")
    return charts.reliability(logits, labels, f"Reliability, {where}")


def _maps(kind, subjects, teachers, rule, map_name, pixels, labels, logits, dataset) -> Figure:
    """Maps side by side. All explain one class an image: the teacher's, without a teacher the true one."""
    classes, of = labels, "the true class"
    if teachers:
        classes, of = logits[teachers[0].name].argmax(axis=1), "the class that the teacher predicts"
    try:
        maps = {s.name: s.maps(rule, pixels, classes) for s in subjects}
    except ValueError as error:  # a network without what the map reads
        raise UserError(f"{map_name} cannot explain this network: {error}") from None
    over = " over the training" if kind == "training" else ""
    title = f"{map_name} of {of}{over}, {dataset.name} test"
    reference = teachers[0].name if teachers and kind == "panel" else ""
    return pictures.panel(pixels, labels, dataset.class_names, maps, logits, title, reference)


def _apart(subjects: list[Subject]) -> list[Subject]:
    """The same networks with names that differ."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        name, number = subject.name, 2
        while name in found:
            name, number = f"{subject.name} ({number})", number + 1
        found[name] = dataclasses.replace(subject, name=name)
    return list(found.values())


def epochs_of(params: Sequence[str]) -> list[str]:
    """Folders of the weights that a run kept of its epochs, at most `EPOCHS` of them, evenly spaced."""
    if len(params) != 1:
        raise UserError(f"--kind training shows one run; --param has {len(params)}.")
    found = [p.parent for p in pathlib.Path(params[0]).expanduser().glob(f"{run_folder.EPOCHS}/*/model.json")]
    folders = sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))  # not what a stop left half
    if not folders:
        seeds = sorted(p.parent for p in pathlib.Path(params[0]).expanduser().glob(f"s*/{run_folder.EPOCHS}"))
        if seeds:
            raise UserError(f"{params[0]} is a run of several seeds. Show one of them: --param {seeds[0]}")
        raise UserError(
            f"{params[0]} has no weights of its epochs. Train it with --config.keep_epochs=1 (of every epoch)."
        )
    index = np.linspace(0, len(folders) - 1, min(EPOCHS, len(folders))).round().astype(int)
    return [str(folders[i]) for i in index]


def measure(
    params: Sequence[str],
    dataset: data.Dataset,
    maps: Sequence[str],
    teacher_param: str = "",
    baselines: Sequence[str] = (),
    images: int = 1000,
    arch: str = "",
    teacher_arch: str = "",
) -> dict:
    """Faithfulness of maps on the test split, and with a teacher how alike the maps are.

    Args:
        params: folders of weights or runs; several are seeds of one method where they are compared with `baselines`.
        dataset: its test split is used, evenly spaced images of it.
        maps: names of `explain.names()`.
        teacher_param: the teacher's weights.
        baselines: as many as `params`: the students to compare with, such as the ones by labels of the same seeds.
        images: at most this many; 0: all.
        arch, teacher_arch: as in `evaluation.player_of`.

    Returns:
        {"images": N, "networks": [one a param: {map: `faithfulness` and, with a teacher, "similarity" {measure:
        mean}}], and with baselines "comparison": {map: {measure: `paired_interval`}}}.

    Raises:
        UserError: what is missing or does not fit, before anything is computed.
    """
    rules = dict(zip(maps, check_maps(maps), strict=True))
    if baselines and not teacher_param:
        raise UserError("--baseline compares likeness to a teacher: add --teacher_param.")
    if baselines and len(baselines) != len(params):
        raise UserError(f"--baseline has {len(baselines)} runs, --param {len(params)}: each is paired with one.")
    if images < 0:
        raise UserError(f"--explain_images must be 0 (all) or more; got {images}.")
    subjects = [subject_of(path, dataset, "network", arch) for path in params]
    others = [subject_of(path, dataset, "network", arch) for path in baselines]
    teacher = subject_of(teacher_param, dataset, "teacher", teacher_arch) if teacher_param else None
    test = dataset.test
    index = chosen("", len(test), images)
    if len(others) == 1 and len(index) < 2:
        raise UserError("--baseline with one run needs two images or more: raise --explain_images.")
    masks = None if test.masks is None else test.masks[index]
    pixels, labels = test.images[index], test.labels[index]
    result = {"images": len(index), "networks": [{} for _ in params]}
    for name, rule in rules.items():
        try:
            for row, subject in zip(result["networks"], subjects, strict=True):
                row[name] = faithfulness(subject, rule, pixels, labels, masks)
            if not teacher:
                continue
            alike = likeness(teacher, subjects, rule, pixels)
            against = likeness(teacher, others, rule, pixels) if others else {}
        except ValueError as error:  # a network without what the map reads
            raise UserError(f"{name} cannot explain this network: {error}") from None
        for i, row in enumerate(result["networks"]):
            row[name]["similarity"] = {measure: float(values[i].mean()) for measure, values in alike.items()}
        if others:
            result.setdefault("comparison", {})[name] = compare(alike, against)
    return result


def lines(measured: dict) -> list[str]:
    """What `measure` found of one network, as text: {"images", "maps", "comparison" or nothing}."""
    found = []
    for name, values in measured["maps"].items():
        found.append(f"{name} on {measured['images']:,} images")
        for key, (text, unit) in LINES.items():
            if key in values:
                found.append(f"  {text:<68} {values[key]:7.2f} {unit}".rstrip())
        drawn = list(values["sanity"].items())
        for module, value in (drawn[0], drawn[-1]):
            found.append(f"  {f'rank correlation after drawing anew the weights down to {module}':<68} {value:7.2f}")
        for key, value in values.get("similarity", {}).items():
            found.append(f"  {f'likeness to the teacher: {key}':<68} {value:7.3f}")
        for key, row in measured.get("comparison", {}).get(name, {}).items():
            text = f"more than the baseline, 95 % t interval over {row['over']}: {key}"
            found.append(f"  {text:<68} {row['mean']:+7.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    return found


LINES = {
    "positive_predicted": ("most important first, predicted class: AUC of accuracy, lower", "%"),
    "positive_target": ("most important first, true class: AUC of accuracy, lower", "%"),
    "random": ("random order: AUC of accuracy", "%"),
    "negative_predicted": ("least important first, predicted class: AUC of accuracy, higher", "%"),
    "negative_target": ("least important first, true class: AUC of accuracy, higher", "%"),
    "deletion": ("deletion: AUC of the predicted class's probability, lower", "%"),
    "insertion": ("insertion: AUC of the predicted class's probability, higher", "%"),
    "sparsity": ("sparsity (Gini index)", ""),
    "pointing": ("pointing game", "%"),
    "iou": ("IoU of the mask with what is above the map's mean", "%"),
    "map": ("mAP of the map as a score for the mask", "%"),
}
