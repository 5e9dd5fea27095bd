"""Explanation maps of trained weights: `draw` for `explain.py`, `measure` for `evaluate.py --explain`."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import data
import explain
from configs.command import names_in
from explain import charts, pictures
from explain.faithfulness import compare, faithfulness, teacher_similarity
from explain.subject import Subject

# From the engine; used by `subject_of` and `epochs_of` only.
from pretrained import foreign
from pretrained.classes import class_note
from pretrained.players import fitted, player_of
from registry import UserError, unknown
from studies import detecting
from training.run_folder import EPOCHS, warn

KINDS = ("panel", "training", "tsne", "correlation", "confusion", "reliability", "detections")
IMAGES = {"panel": 6, "training": 4, "tsne": 1000, "detections": 4}  # default number of images; the other kinds use all
MAP_KINDS = ("panel", "training")
LEAST = {"tsne": 10, "correlation": 2}  # smallest number of different images
COLUMNS = 8  # largest number of epochs in a picture of the training


def subject_of(
    path: str, dataset: data.Dataset, role: str, arch: str = "", image_size: int = 0, **torch: str
) -> Subject:
    """Load a network and check that the network fits the data.

    Args:
        path: a folder of weights, or a run folder.
        dataset: the data to explain.
        role: "teacher" or "network", for messages. The name of a teacher is its architecture; the name of another
            network is that of its run.
        arch: as in `pretrained.players.player_of`.
        image_size: side in pixels at which the network sees the images; 0: the dataset's.
        **torch: of teachers that are networks of PyTorch, as in `pretrained.foreign.load`.

    Raises:
        UserError: a folder without weights, or weights that do not fit the data.
    """
    weights = fitted(foreign.load(path, arch, dataset, **torch), dataset, role, warn, image_size=image_size)
    if note := class_note(role, weights.info, dataset):
        warn(note)
    player, variables = player_of(weights, role, arch=arch, dataset=dataset, image_size=image_size)
    folder = weights.folder.resolve()
    parent = folder.parent.name
    if re.fullmatch(r"s\d+", parent):  # one seed of a run of several
        parent = f"{folder.parent.parent.name} {parent}"
    run = {"last": parent, "best": f"{parent} best"}.get(folder.name, folder.name)
    if folder.parent.name == EPOCHS:
        run = f"epoch {weights.info['epoch']}"
    name = f"teacher {weights.info['arch']}" if role == "teacher" else run
    return Subject(name, player.model, variables, player.mean, player.std, player.view)


def _teachers(params: str, dataset: data.Dataset, archs: str = "", image_size: int = 0, **torch: str) -> list[Subject]:
    """Load the teachers in `params`, joined by commas; `archs` is empty or has as many parts."""
    names, types = names_in(params), names_in(archs)
    if types and len(types) != len(names):
        raise UserError(f"--teacher_arch names {len(types)} networks and --teacher_param {len(names)} weights.")
    pairs = zip(names, types or [""] * len(names), strict=True)
    return [subject_of(name, dataset, "teacher", arch, image_size, **torch) for name, arch in pairs]


def check_maps(names: Sequence[str]) -> list:
    """Return the maps of these names; an unknown name raises `UserError` with the nearest known one."""
    return [explain.create(name) for name in names]


def chosen(images: str, count: int, otherwise: int) -> np.ndarray:
    """Return the positions of the images that `--images` selects.

    Args:
        images: a number of images, "12": evenly spaced positions; or positions, "3,17,25" (one position: "3,"); or
            empty: `otherwise` images.
        count: the number of images in the split.
        otherwise: the default number of images; 0: all. More than `count` means all.

    Returns:
        [M] int.

    Raises:
        UserError: text that is neither a number nor positions, or images that the split does not have.
    """
    try:
        listed = [int(part) for part in images.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--images must be a number of images, or positions such as 3,17,25; got '{images}'.") from None
    if "," in images:
        if not listed or min(listed) < 0 or max(listed) >= count:
            raise UserError(f"--images {images}: the test split has the positions 0 to {count - 1}.")
        return np.asarray(listed)
    wanted = listed[0] if listed else otherwise or count
    if wanted < 1 or (listed and wanted > count):
        raise UserError(f"--images {wanted}: the number of images must be 1 to {count}, the size of the test split.")
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int)


def draw(
    kind: str,
    params: Sequence[str],
    dataset: data.Dataset,
    teacher_param: str = "",
    map_name: str = "",
    images: str = "",
    arch: str = "",
    teacher_arch: str = "",
    teacher_image_size: int = 0,
    **torch: str,
) -> Figure:
    """Draw a picture of networks on a dataset's test split.

    Args:
        kind: one of `KINDS`.
        params: the students: folders of weights, or run folders. One run folder for the kind "training".
        dataset: the data.
        teacher_param: the teacher's folder, or several folders joined by commas; the first teacher is the reference.
            The kind "correlation" needs a teacher.
        map_name: one of `explain.names()`, for the kinds in `MAP_KINDS`; empty: GradCAM. With the kind "detections"
            empty means no map. The kind "panel" takes several, joined by commas, for one network.
        images: as in `chosen`.
        arch, teacher_arch: as in `pretrained.players.player_of`.
        teacher_image_size: side in pixels at which the teachers see the images; 0: the dataset's.
        **torch: of teachers that are networks of PyTorch, as in `pretrained.foreign.load`.

    Raises:
        UserError: an unknown name, a missing teacher or missing weights, or networks that do not fit the data.
    """
    if kind not in KINDS:
        raise unknown("kind of picture", kind, KINDS)
    wanted = names_in(map_name) or ["GradCAM"]
    rules = dict(zip(wanted, check_maps(wanted), strict=True))
    if kind != "detections":
        dataset.check_classified(f"explain.py --kind {kind}")
    elif dataset.task != "detection":
        raise UserError(f"--kind detections draws boxes, and {dataset.name} has none.\nTake --kind panel.")
    elif map_name not in ("", "GradCAM"):
        raise UserError(f"--map {map_name}: under detections only GradCAM can be drawn.")
    if len(rules) > 1 and (kind != "panel" or teacher_param or len(params) > 1):
        raise UserError(f"--map {map_name}: several maps are drawn by --kind panel for one --param, without a teacher.")
    if kind == "correlation" and not teacher_param:
        raise UserError("--kind correlation compares with a teacher: add --teacher_param.")
    if kind == "training":
        params = epochs_of(params)
    teachers = _teachers(teacher_param, dataset, teacher_arch, teacher_image_size, **torch)
    students = [subject_of(path, dataset, "network", arch) for path in params]
    everyone = _apart([*teachers, *students])
    teachers, students = everyone[: len(teachers)], everyone[len(teachers) :]
    subjects = [*teachers, *students]
    index = chosen(images, len(dataset.test), IMAGES.get(kind, 0))
    if len(set(index)) < LEAST.get(kind, 1):
        raise UserError(f"--kind {kind} needs {LEAST[kind]} images or more; --images chose {len(set(index))}.")
    if kind == "detections":
        return detecting.draw(subjects, dataset, index, maps=bool(map_name))
    pixels, labels, names = dataset.test.rows(index), dataset.test.labels[index], dataset.class_names
    subjects = [*students, *teachers] if kind == "training" else subjects
    answers = {s.name: s.answers(pixels) for s in subjects}
    logits = {name: pair[0] for name, pair in answers.items()}
    where = f"{dataset.name} test, {len(index):,} images"
    if kind in MAP_KINDS:
        return _maps(kind, subjects, teachers, rules, pixels, labels, logits, dataset)
    if kind == "tsne":
        return charts.tsne({n: pair[1] for n, pair in answers.items()}, labels, names, f"t-SNE of embeddings, {where}")
    if kind == "correlation":
        return charts.correlation(logits, teachers[0].name, names, f"Correlations between class logits, {where}")
    if kind == "confusion":
        return charts.confusion(logits, labels, names, f"Confusion matrices, {where}")
    return charts.reliability(logits, labels, f"Reliability, {where}")


def _maps(kind, subjects, teachers, rules, pixels, labels, logits, dataset) -> Figure:
    """Draw maps side by side: one map of several networks, or several maps of one network.

    `rules` has the maps by their names. All maps of an image explain one class: the first teacher's prediction, or the
    label.
    """
    classes, of = labels, "the true class"
    if teachers:
        classes, of = logits[teachers[0].name].argmax(axis=1), "the class that the teacher predicts"
    if len(rules) > 1:
        title, columns = f"Maps by {subjects[0].name}", [(name, subjects[0], rule) for name, rule in rules.items()]
    else:
        ((title, rule),) = rules.items()
        columns = [(subject.name, subject, rule) for subject in subjects]
    try:
        maps = {name: subject.maps(rule, pixels, classes) for name, subject, rule in columns}
    except ValueError as error:  # a network without a tap that the map reads
        raise UserError(f"{', '.join(rules)} cannot explain this network: {error}") from None
    logits = {name: logits[subject.name] for name, subject, _ in columns}
    over = " over the training" if kind == "training" else ""
    title = f"{title} of {of}{over}, {dataset.name} test"
    reference = teachers[0].name if teachers and kind == "panel" else ""
    return pictures.panel(pixels, labels, dataset.class_names, maps, logits, title, reference)


def _apart(subjects: list[Subject]) -> list[Subject]:
    """Return the same networks with unique names: a repeated name gets a number."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        name, number = subject.name, 2
        while name in found:
            name, number = f"{subject.name} ({number})", number + 1
        found[name] = dataclasses.replace(subject, name=name)
    return list(found.values())


def epochs_of(params: Sequence[str]) -> list[str]:
    """Return the folders of weights of a run's epochs.

    Args:
        params: one run folder.

    Returns:
        At most `COLUMNS` folders, evenly spaced over the epochs that the run kept.

    Raises:
        UserError: several runs, a run of several seeds, or a run that kept no epochs.
    """
    if len(params) != 1:
        raise UserError(f"--kind training shows one run; --param has {len(params)}.")
    found = [p.parent for p in pathlib.Path(params[0]).expanduser().glob(f"{EPOCHS}/*/model.json")]
    folders = sorted(
        (p for p in found if p.name.isdigit()), key=lambda p: int(p.name)
    )  # a stopped run may leave other folders
    if not folders:
        seeds = sorted(p.parent for p in pathlib.Path(params[0]).expanduser().glob(f"s*/{EPOCHS}"))
        if seeds:
            raise UserError(f"{params[0]} is a run of several seeds. Show one of them: --param {seeds[0]}")
        raise UserError(
            f"{params[0]} has no weights of its epochs. Train with --config.keep_epochs=1 to keep those of every epoch."
        )
    index = np.linspace(0, len(folders) - 1, min(COLUMNS, len(folders))).round().astype(int)
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
    teacher_image_size: int = 0,
    **torch: str,
) -> dict:
    """Measure the faithfulness of maps on the test split and, with a teacher, their similarity to the teacher's maps.

    Args:
        params: the students: folders of weights, or run folders. With `baselines`: the seeds of one method.
        dataset: the data.
        maps: names of `explain.names()`.
        teacher_param: the teacher's folder, or several folders joined by commas. The similarity is the mean over the
            teachers.
        baselines: other students, one for each of `params`, such as students trained on labels with the same seeds.
        images: the largest number of test images, evenly spaced; 0: all.
        arch, teacher_arch: as in `pretrained.players.player_of`.
        teacher_image_size: side in pixels at which the teachers see the images; 0: the dataset's.
        **torch: of teachers that are networks of PyTorch, as in `pretrained.foreign.load`.

    Returns:
        A dictionary with
        "images": the number of images.
        "networks": a list with one dictionary for each of `params`: map -> the result of `faithfulness`, and with a
            teacher "similarity": measure -> mean over the images.
        "comparison", with baselines only: map -> measure -> `paired_interval` of the similarity to the teacher.

    Raises:
        UserError: an unknown name, a missing teacher or missing weights, or networks that do not fit the data.
            Everything is checked before the first measurement, except for taps that a map reads and a network lacks.
    """
    rules = dict(zip(maps, check_maps(maps), strict=True))
    dataset.check_classified("--explain")
    if baselines and not teacher_param:
        raise UserError("--baseline compares the similarity to a teacher: add --teacher_param.")
    if baselines and len(baselines) != len(params):
        raise UserError(
            f"--baseline has {len(baselines)} runs, --param {len(params)}: each run of --param needs one baseline."
        )
    if images < 0:
        raise UserError(f"--explain_images must be 0 (all images) or more; got {images}.")
    subjects = [subject_of(path, dataset, "network", arch) for path in params]
    others = [subject_of(path, dataset, "network", arch) for path in baselines]
    teachers = _teachers(teacher_param, dataset, teacher_arch, teacher_image_size, **torch)
    test = dataset.test
    index = chosen("", len(test), images)
    if len(others) == 1 and len(index) < 2:
        raise UserError("--baseline with one run needs two images or more: raise --explain_images.")
    masks = None if test.masks is None else test.masks[index]
    pixels, labels = test.rows(index), test.labels[index]
    result = {"images": len(index), "networks": [{} for _ in params]}
    for name, rule in rules.items():
        try:
            for row, subject in zip(result["networks"], subjects, strict=True):
                row[name] = faithfulness(subject, rule, pixels, labels, masks)
            if not teachers:
                continue
            similar = _mean_similarity(teachers, subjects, rule, pixels)
            baseline = _mean_similarity(teachers, others, rule, pixels) if others else {}
        except ValueError as error:  # a network without a tap that the map reads
            raise UserError(f"{name} cannot explain this network: {error}") from None
        for i, row in enumerate(result["networks"]):
            row[name]["similarity"] = {measure: float(values[i].mean()) for measure, values in similar.items()}
        if others:
            result.setdefault("comparison", {})[name] = compare(similar, baseline)
    return result


def _mean_similarity(teachers: list[Subject], subjects: list[Subject], rule, pixels: np.ndarray) -> dict:
    """Return the result of `teacher_similarity` as the mean over the teachers."""
    found = [teacher_similarity(teacher, subjects, rule, pixels) for teacher in teachers]
    return {measure: np.mean([values[measure] for values in found], axis=0) for measure in found[0]}


LINES = {  # measure -> text, unit
    "positive_predicted": ("most important first, predicted class: AUC of accuracy, lower", "%"),
    "positive_target": ("most important first, true class: AUC of accuracy, lower", "%"),
    "random": ("random order: AUC of accuracy", "%"),
    "negative_predicted": ("least important first, predicted class: AUC of accuracy, higher", "%"),
    "negative_target": ("least important first, true class: AUC of accuracy, higher", "%"),
    "deletion": ("deletion: AUC of the predicted class's probability, lower", "%"),
    "insertion": ("insertion: AUC of the predicted class's probability, higher", "%"),
    "sparsity": ("sparsity (Gini index)", ""),
    "pointing": ("pointing game", "%"),
    "iou": ("IoU of the mask and the pixels above the map's mean", "%"),
    "map": ("mAP of the map as a score for the mask", "%"),
}


def lines(measured: dict) -> list[str]:
    """Return the measurements of one network as lines of text.

    Args:
        measured: {"images": as in the result of `measure`, "maps": an item of its "networks", and if there are
            baselines "comparison"}.
    """
    found = []
    for name, values in measured["maps"].items():
        found.append(f"{name} on {measured['images']:,} images")
        for key, (text, unit) in LINES.items():
            if key in values:
                found.append(f"  {text:<68} {values[key]:7.2f} {unit}".rstrip())
        sanity = list(values["sanity"].items())
        for module, value in (sanity[0], sanity[-1]):
            found.append(f"  {f'rank correlation after re-initialising the weights down to {module}':<68} {value:7.2f}")
        for key, value in values.get("similarity", {}).items():
            found.append(f"  {f'similarity to the teacher: {key}':<68} {value:7.3f}")
        for key, row in measured.get("comparison", {}).get(name, {}).items():
            text = f"similarity minus the baseline's, 95 % t interval over {row['over']}: {key}"
            found.append(f"  {text:<68} {row['mean']:+7.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    return found
