"""Pictures of detections: the true objects beside those that networks find, image by image."""

from collections.abc import Mapping
from types import MappingProxyType

import matplotlib.colors
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from explain.charts import CLASSES
from explain.pictures import bare, headed, overlay, shortened, show, wrapped
from explain.similarity import stretched

CELL = 2.6  # side of a square image, inches
LEAST = 0.3  # score of a box that is drawn


def draw(
    images: np.ndarray,
    truth,
    found: dict[str, np.ndarray],
    class_names: tuple[str, ...],
    title: str = "",
    least: float = LEAST,
    maps: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Figure:
    """Draw a grid with one row for each image: the true objects, then the boxes that each network finds.

    A class has a colour. Crowds have dashed boxes. Padding is not drawn.

    Args:
        images: [N, S, S, C] uint8, C 1 or 3.
        truth: the N images' objects, as `data.objects.Objects` has them.
        found: network's name -> [N, D, 6] float, (x1, y1, x2, y2, score, class) in pixels of the images; in the order
            of the columns, so the teacher's first.
        class_names: K names.
        title: the picture's title; empty: "Boxes with a score of 0.3 or more".
        least: the smallest score of a box that is drawn, above 0.
        maps: network's name -> [N, S, S] float, an explanation map that is drawn under the boxes.

    Raises:
        ValueError: the numbers of images and objects or detections differ.
    """
    for name, own in {"truth": truth.classes, **found}.items():
        if len(own) != len(images):
            raise ValueError(f"{len(images)} images have {len(own)} rows of {name}: give one row for each image.")
    sizes = np.ceil(truth.size).astype(int)
    heights = [CELL * height / width if width >= height else CELL for height, width in sizes]
    figure = Figure(figsize=((1 + len(found)) * CELL, sum(heights) + 0.3 * len(images) + 0.8), layout="compressed")
    headed(figure, title or f"Boxes with a score of {least:g} or more")
    axes = figure.subplots(len(images), 1 + len(found), squeeze=False, height_ratios=heights)
    for row, (height, width) in enumerate(sizes):
        shown = images[row, :height, :width]
        own = truth[row]
        there = own.classes >= 0
        count = f"{there.sum()} objects" if there.sum() != 1 else "1 object"
        show(axes[row, 0], shown, count)
        for box, label, crowd in zip(own.boxes[there], own.classes[there], own.crowd[there], strict=True):
            _box(axes[row, 0], box, int(label), shortened(class_names[label]), crowd)
        for cell, (name, detections) in zip(axes[row, 1:], found.items(), strict=True):
            rows = detections[row]
            visible = (np.minimum(rows[:, 2:4], truth.size[row][::-1]) > rows[:, :2]).all(axis=1)  # not in the padding
            own_boxes = rows[visible & (rows[:, 4] >= max(least, np.finfo(np.float32).tiny))]
            show(cell, shown, f"{len(own_boxes)} found")
            if name in maps:
                overlay(cell, shown, stretched(maps[name][row : row + 1, :height, :width])[0])
            for *box, score, label in own_boxes[np.argsort(own_boxes[:, 4], kind="stable")]:  # the surest on top
                _box(cell, box, int(label), f"{shortened(class_names[int(label)])} {score:.2f}", False)
    for cell, head in zip(axes[0], ["truth", *found], strict=True):
        cell.set_title(wrapped(head, 30), fontsize=10)
    bare(axes)
    return figure


def _box(cell, box, label: int, text: str, crowd: bool) -> None:
    """Draw a box and its text: above the box, or inside where the image ends.

    Matplotlib's first pixel reaches from -0.5 to 0.5, and ours from 0 to 1.
    """
    (left, upper, right, lower), colour = np.asarray(box) - 0.5, CLASSES[label % len(CLASSES)]
    style = {"fill": False, "edgecolor": colour, "linewidth": 1.4, "linestyle": "--" if crowd else "-"}
    style["path_effects"] = [withStroke(linewidth=2.6, foreground="white", alpha=0.8)]
    cell.add_patch(matplotlib.patches.Rectangle((left, upper), right - left, lower - upper, **style))
    back = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    light = sum(matplotlib.colors.to_rgb(colour)) > 1.5
    place = "bottom" if upper > 0.1 * cell.get_ylim()[0] else "top"
    cell.text(left, upper, text, fontsize=6, color="black" if light else "white", bbox=back, va=place, clip_on=True)
