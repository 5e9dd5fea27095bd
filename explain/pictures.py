"""Pictures of explanation maps: networks side by side on the same images, and one network over its training.

Matplotlib without global state. Colours can be told apart by colour-blind eyes: `viridis` for maps, `PuOr` for
differences, and right and wrong are told by a sign as well.
"""

import os
import pathlib

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from explain.similarity import stretched
from registry import UserError

MAP, DIFFERENCE = "viridis", "PuOr"
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
    return f"{'✓' if predicted == label else '✗'} {shortened(names[predicted])} {confidence:.0f} %"


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
    """
    shown = {name: stretched(m) for name, m in maps.items()}
    students = [name for name in maps if name != reference] if reference else []
    columns = 1 + len(maps) + len(students)
    # The images' columns are as wide as high; names and answers need about 0.45 inches a row, the bars 1.1 in all.
    figure = Figure(
        figsize=(columns * CELL * 1.04 + 1.3 + 0.9 * bool(students), len(images) * (CELL + 0.3) + 1.0),
        layout="compressed",
    )
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, label in enumerate(labels):
        cells = iter(axes[row])
        _image(next(cells), images[row], shortened(class_names[label]))
        for name in maps:
            cell = next(cells)
            _overlay(cell, images[row], shown[name][row])
            cell.set_xlabel(answer(logits[name][row], class_names, label), fontsize=9)
        for name in students:
            difference = shown[name][row] - shown[reference][row]
            cell = next(cells)
            cell.imshow(difference, cmap=DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
            cell.set_xlabel(f"mean |difference| {np.abs(difference).mean():.2f}", fontsize=9)
    heads = ["image", *maps, *(f"{name} − {reference}" for name in students)]
    for cell, head in zip(axes[0], heads, strict=True):
        cell.set_title(_wrapped(head), fontsize=10)
    _bare(axes)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), MAP), ax=axes, shrink=0.9, aspect=40, pad=0.01)
    bar.set_label("importance, each map from its least to its largest value", fontsize=9)
    if students:
        bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), DIFFERENCE), ax=axes, shrink=0.9, aspect=40, pad=0.01)
        bar.set_label(f"student − {reference}: more important to the {reference} | to the student", fontsize=9)
    return figure


def training(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    maps: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    title: str,
) -> Figure:
    """A strip of maps over the training for each image: one column an epoch (and the teacher's, where it is given).

    Arguments as `panel`'s, with a network's name for an epoch: "epoch 10".
    """
    return panel(images, labels, class_names, maps, logits, title)


def _image(cell, image: np.ndarray, below: str) -> None:
    """The image itself, its pixels unsmoothed, however small."""
    if image.shape[-1] == 1:
        cell.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        cell.imshow(image, interpolation="nearest")
    cell.set_xlabel(below, fontsize=9)


def _overlay(cell, image: np.ndarray, shown: np.ndarray) -> None:
    """A map in [0, 1] over the grey image."""
    cell.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    cell.imshow(shown, cmap=MAP, vmin=0, vmax=1, alpha=0.65, interpolation="nearest")


def _bare(axes: np.ndarray) -> None:
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
        for spine in cell.spines.values():
            spine.set_visible(False)


def _wrapped(text: str, width: int = 18) -> str:
    """A column's head on as many lines as it needs, broken at spaces and hyphens."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
