"""Pictures of explanation maps: networks side by side on the same images, and one network over its training.

Matplotlib is used without its global state. Colour-blind readers can tell the colours apart: `viridis` for maps, `PuOr`
for differences. A sign (✓ or ✗) marks right and wrong predictions.
"""

import os
import pathlib
import textwrap

import matplotlib
import numpy as np
import scipy.special
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from explain.similarity import stretched
from registry import UserError

MAP, DIFFERENCE = "viridis", "PuOr"
OPACITY = 0.7  # of a map over its image
CELL = 1.5  # side of an image in a panel, inches
FORMATS = (".png", ".svg")


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a picture after checking that the picture can be written.

    Raises:
        UserError: a suffix other than .png or .svg, or a folder that does not exist.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out must end in {' or '.join(FORMATS)}; got '{path}'.")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist. Make it first.")
    return path


def save(figure: Figure, path: str | os.PathLike) -> pathlib.Path:
    """Write a picture as .png or .svg.

    A failed write leaves no partial file. The same picture has the same bytes.

    Raises:
        UserError: another suffix, or a path that cannot be written.
    """
    path = check_path(path)
    part = path.with_name(path.name + ".part")
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "kd-cookbook", "svg.fonttype": "none"}):
            figure.savefig(part, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)
        part.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def answer(logits: np.ndarray, names: tuple[str, ...], label: int) -> str:
    """Return the text under a map: ✓ or ✗, the predicted class and its probability."""
    predicted = int(np.argmax(logits))
    confidence = 100 * probabilities(logits)[predicted]
    return f"{'✓' if predicted == label else '✗'} {shortened(names[predicted])} ({confidence:.0f} %)"


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64."""
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def shortened(name: str, length: int = 14) -> str:
    """Shorten a class name so that the name fits under an image."""
    return name if len(name) <= length else name[: length - 1] + "…"


def panel(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    maps: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    title: str,
    reference: str = "",
) -> Figure:
    """Draw a grid with one row for each image.

    The columns are the image, each network's map over the image, and each student's map minus the teacher's.

    Args:
        images: [N, H, W, C] uint8, C 1 or 3.
        labels: [N] int.
        class_names: K names.
        maps: network's name -> [N, H, W], in the order of the columns. `panel` scales each map to [0, 1].
        logits: network's name -> [N, K].
        title: the picture's title.
        reference: the teacher's name in `maps`; empty: the picture has no differences.

    Raises:
        ValueError: the numbers of labels and images differ.
    """
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images have {len(labels)} labels: give one label for each image.")
    shown = {name: stretched(m) for name, m in maps.items()}
    students = [name for name in maps if name != reference] if reference else []
    columns = 1 + len(maps) + len(students)
    # Images are square. Names and answers take about 0.45 inches a row, the colour bars 1.1 inches in all.
    figure = Figure(
        figsize=(columns * CELL * 1.04 + 1.3 + 0.9 * bool(students), len(images) * (CELL + 0.3) + 1.0),
        layout="compressed",
    )
    headed(figure, title)
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, label in enumerate(labels):
        cells = iter(axes[row])
        show(next(cells), images[row], f"true: {shortened(class_names[label])}")
        for name in maps:
            cell = next(cells)
            overlay(cell, images[row], shown[name][row])
            cell.set_xlabel(answer(logits[name][row], class_names, label), fontsize=9)
        for name in students:
            difference = shown[name][row] - shown[reference][row]
            cell = next(cells)
            cell.imshow(difference, cmap=DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
            cell.set_xlabel(f"mean |difference| {np.abs(difference).mean():.2f}", fontsize=8)
    heads = ["image", *maps, *(f"{name} − teacher" for name in students)]
    for cell, head in zip(axes[0], heads, strict=True):
        cell.set_title(wrapped(head), fontsize=10)
    bare(axes)
    if students:  # the bar that is made last is next to the images
        _bar(figure, axes, Normalize(-1, 1), DIFFERENCE, 1.0, "← more important to the teacher | to the student →")
    _bar(figure, axes, Normalize(0, 1), MAP, OPACITY, "importance, each map scaled to 0 ... 1")
    return figure


def _bar(figure: Figure, axes: np.ndarray, norm: Normalize, colours: str, opacity: float, text: str) -> None:
    """Add a colour bar as high as all rows."""
    look = {"shrink": 0.95, "aspect": 45, "pad": 0.01, "alpha": opacity, "ticks": [norm.vmin, norm.vmax]}
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, **look)
    bar.set_label(wrapped(text, int(9 * (figure.get_figheight() - 1))), fontsize=9, labelpad=-4)


def show(cell, image: np.ndarray, below: str) -> None:
    """Draw the image with every pixel visible: no smoothing."""
    if image.shape[-1] == 1:
        cell.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        cell.imshow(image, interpolation="nearest")
    cell.set_xlabel(below, fontsize=9)


def overlay(cell, image: np.ndarray, shown: np.ndarray) -> None:
    """Draw a map in [0, 1] over the image. The image is light grey, so the colours stay close to the colour bar's."""
    cell.imshow(image.mean(axis=-1), cmap="gray", vmin=-255, vmax=255, interpolation="nearest")
    cell.imshow(shown, cmap=MAP, vmin=0, vmax=1, alpha=OPACITY, interpolation="nearest")


def bare(axes: np.ndarray) -> None:
    """Remove the ticks and frames of all cells."""
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
        for spine in cell.spines.values():
            spine.set_visible(False)


def wrapped(text: str, width: int = 18) -> str:
    """Break a text into lines of at most `width` letters."""
    return "\n".join(textwrap.wrap(text, width))


def headed(figure: Figure, title: str) -> None:
    """Set the picture's title, broken into lines that fit (0.1 inches a letter)."""
    figure.suptitle(wrapped(title, int(figure.get_figwidth() * 10)), fontsize=12)
