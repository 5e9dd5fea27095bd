"""Charts of a teacher beside its students: t-SNE, correlations of logits, confusion matrices, reliability diagrams.

Every chart reads the networks' logits or embeddings of the same images. Colours are as in `pictures`. A class has a
colour and a marker, and its name is written on its points.
"""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from explain.pictures import DIFFERENCE, MAP, headed, probabilities, shortened, wrapped
from registry import UserError

BINS = 15
INK = {"main": "#0072B2", "second": "#D55E00", "quiet": "#777777"}  # Okabe, Ito
# Tol's muted scheme and black: ten colours that colour-blind readers can tell apart. Above ten classes, classes of one
# colour have different markers.
CLASSES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")
MARKERS = "osD^vPX<>*"


def layouts(embeddings: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Compute comparable t-SNE layouts of several networks' embeddings of the same images.

    Embeddings of different sizes D cannot share one t-SNE. And t-SNE fixes only which points are near each other, not
    where a cluster lies. So the layout of the first network (the teacher) starts from its principal components, and
    every other layout starts from the finished first layout: an image moves only if its neighbours differ. Early
    exaggeration is off in these other layouts, because early exaggeration would scatter the start. At the end, each of
    these layouts is rotated, mirrored, shifted and scaled onto the first layout (Procrustes); Procrustes changes no
    neighbourhood.

    Args:
        embeddings: name -> [N, D].
        seed: seed of t-SNE.

    Returns:
        name -> [N, 2] float64.

    Raises:
        UserError: embeddings that are equal for all images, or not finite.

    Paper: van der Maaten, Hinton. Visualizing Data using t-SNE. JMLR 2008.
    """
    from sklearn.manifold import TSNE

    found = {}
    for name, values in embeddings.items():
        values = np.asarray(values, np.float64)
        if not np.ptp(values, axis=0).max() > 0:  # also where it is NaN
            raise UserError(f"{name}'s embeddings are the same for all images, or not finite: t-SNE cannot place them.")
        options = {"perplexity": min(30.0, (len(values) - 1) / 3), "learning_rate": "auto", "random_state": seed}
        if found:
            first = next(iter(found.values()))
            layout = TSNE(2, init=first.astype(np.float32), early_exaggeration=1.0, **options).fit_transform(values)
            found[name] = aligned(layout.astype(np.float64), first)
        else:
            layout = TSNE(2, init="pca", **options).fit_transform(values).astype(np.float64)
            found[name] = layout - layout.mean(axis=0)
    return found


def aligned(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Rotate or mirror, shift and scale `points` [N, 2] to the smallest distance from `onto` [N, 2] (Procrustes)."""
    a, b = points - points.mean(axis=0), onto - onto.mean(axis=0)
    left, values, right = np.linalg.svd(a.T @ b)
    return a @ (left @ right) * values.sum() / max((a**2).sum(), 1e-12) + onto.mean(axis=0)


def tsne(
    embeddings: dict[str, np.ndarray], labels: np.ndarray, class_names: tuple[str, ...], title: str, seed: int = 0
) -> Figure:
    """Draw `layouts` side by side. A class has one colour and marker in all of them; its name is at its median."""
    found = layouts(embeddings, seed)
    wide, high = 1.1 * np.max([np.abs(points).max(axis=0) for points in found.values()], axis=0)
    height = 4.4 * min(max(high / wide, 0.5), 1.5)
    figure = Figure(figsize=(4.4 * len(found) + 0.2, height + 0.8), layout="constrained")
    headed(figure, title)
    axes = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    for cell, (name, points) in zip(axes, found.items(), strict=True):
        for c in np.unique(labels):
            here = points[labels == c]
            marker = MARKERS[(c // len(CLASSES) + c) % len(MARKERS)]
            cell.scatter(*here.T, s=12, color=CLASSES[c % len(CLASSES)], marker=marker, linewidths=0, alpha=0.75)
        for c in np.unique(labels) if len(class_names) <= 30 else ():
            where = np.median(points[labels == c], axis=0)
            text = cell.annotate(shortened(class_names[c]), where, ha="center", va="center", fontsize=11, zorder=3)
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        cell.set_title(wrapped(name, 40), fontsize=10)
        cell.set(xticks=[], yticks=[], aspect="equal", xlim=(-wide, wide), ylim=(-high, high))
    return figure


def correlation_difference(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the student's minus the teacher's correlations between the logits of every two classes over the images.

    Args:
        student, teacher: logits [N, K].

    Returns:
        [K, K] float64. A logit that is equal for all images has the correlation 0 with every other logit.

    Paper: Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020. arXiv:1910.10699, figure 2.
    """
    both = []
    for logits in (student, teacher):
        moved = np.asarray(logits, np.float64) - np.mean(logits, axis=0, dtype=np.float64)
        norms = np.linalg.norm(moved, axis=0)
        moved = np.divide(moved, norms, out=np.zeros_like(moved), where=norms > 0)
        both.append(moved.T @ moved)
    return both[0] - both[1]


def correlation(logits: dict[str, np.ndarray], reference: str, class_names: tuple[str, ...], title: str) -> Figure:
    """Draw `correlation_difference` of each student to `reference`, with one colour scale for all students."""
    found = {n: correlation_difference(x, logits[reference]) for n, x in logits.items() if n != reference}
    bound = max(1e-3, *(np.abs(x).max() for x in found.values()))
    figure, axes = _matrices(len(found), len(class_names), title)
    for cell, (name, matrix) in zip(axes, found.items(), strict=True):
        drawn = cell.imshow(matrix, cmap=DIFFERENCE, vmin=-bound, vmax=bound, interpolation="nearest")
        cell.set_title(f"{wrapped(name, 40)}\nmean |difference| {np.abs(matrix).mean():.3f}", fontsize=10)
        _ticks(cell, class_names)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9)
    bar.set_label(f"student's − {reference}'s correlation", fontsize=9)
    return figure


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images [K, K] by label (row) and by the class predicted from logits [N, K] (column)."""
    classes = logits.shape[1]
    pairs = np.asarray(labels, np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confusion(logits: dict[str, np.ndarray], labels: np.ndarray, class_names: tuple[str, ...], title: str) -> Figure:
    """Draw each network's confusion matrix, in percent of the label's images; up to 12 classes, with numbers."""
    figure, axes = _matrices(len(logits), len(class_names), title)
    for cell, (name, values) in zip(axes, logits.items(), strict=True):
        counts = confusion_matrix(values, labels)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        # Errors are small shares. A square-root colour scale makes small shares visible.
        drawn = cell.imshow(share, cmap=MAP, norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        right = 100 * np.trace(counts) / max(counts.sum(), 1)
        cell.set_title(f"{wrapped(name, 40)}\ntop-1 {right:.2f} %", fontsize=10)
        _ticks(cell, class_names)
        cell.set(xlabel="predicted", ylabel="label")
        if len(class_names) <= 12:
            for i, j in np.argwhere(counts > 0):
                ink = "white" if share[i, j] < 40 else "black"
                cell.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=ink)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of the label's images", fontsize=9)
    return figure


def _matrices(count: int, classes: int, title: str):
    """Make a figure with a row of `count` axes for matrices [classes, classes]."""
    side = 4.0 if classes <= 12 else 5.0
    figure = Figure(figsize=(count * (side + 0.9) + 1.0, side + 1.6), layout="compressed")
    headed(figure, title)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _ticks(cell, class_names: tuple[str, ...]) -> None:
    """Label both axes with the names of the classes, or, above 30 classes, with every tenth number."""
    if len(class_names) <= 30:
        names, places = [shortened(n) for n in class_names], range(len(class_names))
    else:
        places = range(0, len(class_names), max(1, len(class_names) // 100) * 10)
        names = [str(p) for p in places]
    turn = 0 if max(map(len, names)) <= 2 else 90
    cell.set_xticks(list(places), names, rotation=turn, fontsize=8)
    cell.set_yticks(list(places), names, fontsize=8)


def calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count images and their accuracy in `BINS` bins of confidence of equal width.

    Args:
        logits: [N, K].
        labels: [N] int.

    Returns:
        (count, mean confidence, accuracy), [BINS] each. Mean confidence and accuracy of an empty bin are NaN. The
        expected calibration error is sum(count * |confidence - accuracy|) / N over the other bins.

    Paper: Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017. arXiv:1706.04599.
    """
    p = probabilities(logits)
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == labels).astype(np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights=w, minlength=BINS) for w in (confidence, right))
    empty = np.where(count > 0, count, np.nan)
    return (count, *(s / empty for s in sums))


def reliability(logits: dict[str, np.ndarray], labels: np.ndarray, title: str) -> Figure:
    """Draw each network's accuracy over confidence, its calibration error, and the histogram of its confidence."""
    figure = Figure(figsize=(3.7 * len(logits) + 0.4, 5.4 + 0.4 * (len(logits) == 1)), layout="constrained")
    headed(figure, title)
    axes = figure.subplots(2, len(logits), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    edges = np.linspace(0, 100, BINS + 1)
    for (above, below), (name, values) in zip(axes.T, logits.items(), strict=True):
        count, confidence, accuracy = calibration(values, labels)
        filled, place = count > 0, {"align": "edge", "width": 100 / BINS}
        error = 100 * (count[filled] * np.abs(confidence - accuracy)[filled]).sum() / count.sum()
        left, confidence, accuracy = edges[:-1][filled], 100 * confidence[filled], 100 * accuracy[filled]
        above.bar(left, accuracy, color=INK["main"], edgecolor="white", linewidth=0.5, label="accuracy", **place)
        gap = {"color": "none", "edgecolor": INK["second"], "hatch": "////", "linewidth": 1}
        above.bar(left, confidence - accuracy, bottom=accuracy, label="gap to the mean confidence", **gap, **place)
        above.plot([0, 100], [0, 100], color="black", linestyle="--", linewidth=1, label="calibrated")
        above.set_title(f"{wrapped(name, 34)}\nECE {error:.2f} %", fontsize=10)
        above.set(xlim=(0, 100), ylim=(0, 101))
        below.bar(left, count[filled], color=INK["quiet"], edgecolor="white", linewidth=0.5, **place)
        below.set_yscale("log")
        below.set_ylim(0.7, None)
        below.set_xlabel("confidence (%)")
        for cell in (above, below):
            cell.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("images")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(3, 2 * len(logits) - 1),
        frameon=False,
    )
    return figure
