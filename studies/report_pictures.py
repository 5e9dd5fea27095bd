"""The pictures of a report on runs. Each function returns a figure; black and white follow the page's colours."""

import itertools

import numpy as np
from matplotlib.figure import Figure

import data
from explain import charts, pictures
from studies.compare import COLOURS, Row

STYLES = ("-", "--", ":", "-.")
COLUMNS = 3
SHARE = "share/"
LEAST = 5  # images of a bin of confidence that is shown


def _lines(rows):
    """Yields each of `rows` with a colour and a style of line that no other one has."""
    looks = ((colour, style) for style in STYLES for colour in COLOURS)
    return zip(rows, itertools.cycle(looks), strict=False)


def curves(rows: list[Row], teacher: float | None) -> Figure:
    """Draws top-1 over the epochs. A line is the mean over a run's seeds, an area their range.

    Args:
        rows: the runs.
        teacher: the teacher's test top-1 in percent, or None.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, (colour, style) in _lines(rows):
        epochs = [test["epoch"] for test in row.curve[0]]
        top1 = np.asarray([[test["top1"] for test in tests] for tests in row.curve])
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, top1.mean(axis=0), color=colour, linestyle=style, marker=marker, label=row.name)
        axes.fill_between(epochs, top1.min(axis=0), top1.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    if teacher is not None:
        axes.axhline(teacher, color="black", linestyle="--", linewidth=1, label="teacher")
    splits = sorted({"validation" if row.best_on == "val" else "test" for row in rows})
    axes.set(xlabel="epoch", ylabel=f"{' or '.join(splits)} top-1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=COLUMNS, frameon=False)
    return figure


def trained(row: Row) -> tuple[list[float], dict[str, np.ndarray]]:
    """Returns the epochs of a run's log lines, and name of a term -> its values; means over the seeds.

    The share of a term in the gradient has the name "share/TERM". Every term has a share.
    """
    logs = [[line for line in log if line["kind"] == "train"] for log in row.logs]
    if not all(logs):
        return [], {}
    names = [name for name in logs[0][0] if name.startswith(SHARE)]
    names += [name.removeprefix(SHARE) for name in names]
    epochs = [line["epoch"] for line in logs[0]]
    return epochs, {name: np.mean([[line.get(name, np.nan) for line in log] for log in logs], axis=0) for name in names}


def terms(rows: list[Row]) -> Figure | None:
    """Draws the terms of each run's loss, and their shares of the gradient; None if no run has two terms."""
    several = {row.name: trained(row) for row in rows}
    several = {name: found for name, found in several.items() if len(found[1]) >= 4}
    if not several:
        return None
    columns = min(COLUMNS, len(several))
    blocks = -(-len(several) // columns)
    figure = Figure(figsize=(max(4.2, 3.1 * columns), 4.4 * blocks), layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for i, (name, (epochs, found)) in enumerate(several.items()):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        own = [term for term in found if not term.startswith(SHARE)]
        for term, (colour, style) in _lines(own):
            above.plot(epochs, found[term], color=colour, linestyle=style, label=term)
        shares = [100 * found[SHARE + term] for term in own]
        below.stackplot(epochs, *shares, colors=[look[0] for _, look in _lines(own)], linewidth=0)
        above.set_title(pictures.wrapped(name, 34), fontsize=10)
        if all(np.nanmin(found[term]) > 0 for term in own):
            above.set_yscale("log")
        above.legend(frameon=False, fontsize=8)
        above.set_ylabel("term")
        below.set(xlabel="epoch", ylabel="share (%)", ylim=(0, 100))
        for cell in (above, below):
            cell.spines[["top", "right"]].set_visible(False)
    for i in range(len(several), blocks * columns):
        for cell in axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]:
            cell.set_axis_off()
    return figure


def reliability(students: dict[str, np.ndarray], teacher: np.ndarray | None, labels: np.ndarray) -> Figure:
    """Draws accuracy over confidence, one line for each network. Bins of fewer than `LEAST` images are left out.

    Args:
        students: name -> logits [N, K].
        teacher: the teacher's logits [N, K], or None.
        labels: [N] int.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="gray", linestyle="--", linewidth=1, label="calibrated")
    drawn = list(_lines(students.items()))
    if teacher is not None:
        drawn.append((("teacher", teacher), ("black", "-")))
    for (name, logits), (colour, style) in drawn:
        count, confidence, accuracy = charts.calibration(logits, labels)
        shown = count >= LEAST
        sizes = 8 + 60 * np.sqrt(count[shown] / count.sum())
        axes.plot(100 * confidence[shown], 100 * accuracy[shown], color=colour, linestyle=style, label=name)
        axes.scatter(100 * confidence[shown], 100 * accuracy[shown], s=sizes, color=colour)
    axes.set(xlabel="mean confidence of a bin (%)", ylabel="accuracy (%)", xlim=(0, 101), ylim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=COLUMNS, frameon=False)
    return figure


def missed(dataset: data.Dataset, teacher: np.ndarray, student: np.ndarray, most: int) -> Figure:
    """Draws test images that the teacher knows and the student does not.

    Args:
        dataset: the data; at least one test image is such an image.
        teacher, student: logits [N, K].
        most: the largest number of images. The surest of the teacher's are shown, surest first.
    """
    labels, names = dataset.test.labels, dataset.class_names
    sure = pictures.probabilities(teacher)
    chosen = np.flatnonzero((teacher.argmax(axis=1) == labels) & (student.argmax(axis=1) != labels))
    chosen = chosen[np.argsort(-sure[chosen].max(axis=1), kind="stable")][:most]
    columns = min(6, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.7 * columns + 0.2, 2.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for cell, index in zip(axes.flat, chosen, strict=False):
        (image,) = dataset.test.rows([index])
        cell.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        right = f"true: {pictures.shortened(names[labels[index]])} ({100 * sure[index].max():.0f} %)"
        cell.set_title(f"{right}\n{pictures.answer(student[index], names, labels[index])}", fontsize=8)
    return figure
