"""Pictures of explanation maps: networks side by side on the same images, and one network over its training.

Matplotlib without global state. Colours can be told apart by colour-blind eyes: `viridis` for maps, `PuOr` for
differences, and right and wrong are told by a sign as well.
"""

import os
import pathlib
import textwrap

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from explain.similarity import stretched
from registry import UserError

MAP, DIFFERENCE = "viridis", "PuOr"
OPACITY = 0.7  # of a map over its image
CELL = 1.5  # inches of one image in a panel
FORMATS = (".png", ".svg")


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """The path of a picture that can be written.

    Raises:
        UserError: another suffix than .png or .svg, or no such folder.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out must end in {' or '.join(FORMATS)}; got '{path}'.")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}. Make it first.")
    return path


def save(figure: Figure, path: str | os.PathLike) -> pathlib.Path:
    """Writes a picture, .png or .svg, whole or not at all; the same picture gives the same bytes.

    Raises:
        UserError: another suffix, or a place that cannot be written.
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
    """What stands under a map: the predicted class, its probability, and whether it is right."""
    predicted = int(np.argmax(logits))
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    confidence = 100 * np.exp(shifted[predicted]) / np.exp(shifted).sum()
    return f"{'✓' if predicted == label else '✗'} {shortened(names[predicted])} ({confidence:.0f} %)"


def shortened(name: str, length: int = 14) -> str:
    """A class name that fits under an image."""
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
    """Rows of images; columns: the image, each network's map over it, and each student's difference to the teacher.

    Args:
        images: [N, H, W, C] uint8, C 1 or 3.
        labels: [N] int.
        class_names: K names.
        maps: network's name -> [N, H, W], in the order of the columns; each map is stretched to [0, 1].
        logits: network's name -> [N, K].
        title: of the picture.
        reference: the name of the teacher among the networks; empty: no differences.

    Raises:
        ValueError: not one label an image.
    """
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images have {len(labels)} labels: give each one.")
    shown = {name: stretched(m) for name, m in maps.items()}
    students = [name for name in maps if name != reference] if reference else []
    columns = 1 + len(maps) + len(students)
    # The images' columns are as wide as high; names and answers need about 0.45 inches a row, the bars 1.1 in all.
    figure = Figure(
        figsize=(columns * CELL * 1.04 + 1.3 + 0.9 * bool(students), len(images) * (CELL + 0.3) + 1.0),
        layout="compressed",
    )
    headed(figure, title)
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, label in enumerate(labels):
        cells = iter(axes[row])
        _image(next(cells), images[row], f"true: {shortened(class_names[label])}")
        for name in maps:
            cell = next(cells)
            _overlay(cell, images[row], shown[name][row])
            cell.set_xlabel(answer(logits[name][row], class_names, label), fontsize=9)
        for name in students:
            difference = shown[name][row] - shown[reference][row]
            cell = next(cells)
            cell.imshow(difference, cmap=DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
            cell.set_xlabel(f"mean |difference| {np.abs(difference).mean():.2f}", fontsize=8)
    heads = ["image", *maps, *(f"{name} − teacher" for name in students)]
    for cell, head in zip(axes[0], heads, strict=True):
        cell.set_title(wrapped(head), fontsize=10)
    _bare(axes)
    if students:  # the bar that is made last stands first
        _bar(figure, axes, Normalize(-1, 1), DIFFERENCE, 1.0, "← more important to the teacher | to the student →")
    _bar(figure, axes, Normalize(0, 1), MAP, OPACITY, "importance, each map stretched from 0 to 1")
    return figure


def _bar(figure: Figure, axes: np.ndarray, norm: Normalize, colours: str, opacity: float, text: str) -> None:
    """A colour bar as high as the rows."""
    look = {"shrink": 0.95, "aspect": 45, "pad": 0.01, "alpha": opacity, "ticks": [norm.vmin, norm.vmax]}
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, **look)
    bar.set_label(wrapped(text, int(9 * (figure.get_figheight() - 1))), fontsize=9, labelpad=-4)


def _image(cell, image: np.ndarray, below: str) -> None:
    """The image itself, its pixels unsmoothed, however small."""
    if image.shape[-1] == 1:
        cell.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        cell.imshow(image, interpolation="nearest")
    cell.set_xlabel(below, fontsize=9)


def _overlay(cell, image: np.ndarray, shown: np.ndarray) -> None:
    """A map in [0, 1] over the image in light greys, on which its colours stay nearly the colour bar's."""
    cell.imshow(image.mean(axis=-1), cmap="gray", vmin=-255, vmax=255, interpolation="nearest")
    cell.imshow(shown, cmap=MAP, vmin=0, vmax=1, alpha=OPACITY, interpolation="nearest")


def _bare(axes: np.ndarray) -> None:
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
        for spine in cell.spines.values():
            spine.set_visible(False)


def wrapped(text: str, width: int = 18) -> str:
    """A head on as many lines as it needs."""
    return "\n".join(textwrap.wrap(text, width))


def headed(figure: Figure, title: str) -> None:
    """Sets the picture's title, on as many lines as its width needs (0.1 inches a letter)."""
    figure.suptitle(wrapped(title, int(figure.get_figwidth() * 10)), fontsize=12)
