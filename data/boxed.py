"""Datasets of pictures with boxes: what COCO and VOC share once their annotations are read."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data import crops, decoded, objects, picture
from data.dataset import Augmentation, Dataset, Split
from data.image_folder import EXAMPLES, SKIPS
from data.pictures import KEPT, PictureSplit
from data.streamed import streams
from registry import DamagedFileError, UserError, unknown

SIDE = 640  # of the squares, pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as trained backbones expect them
FILL = tuple(round(255 * value) for value in MEAN)  # the padding, which is nearly 0 once normalised
BORDER = 0.01  # pixels that a box may lie beyond its picture and not count as clipped


class Letterbox(NamedTuple):
    """The form of a picture in a square that the picture's long side fills; the rest, right and below, is padding.

    A form for `data.picture`, as `data.picture.Form` is. The aspect is kept up to half a pixel of the short side: its
    length is rounded. The filter has half-pixel centres, and averages where the picture shrinks.

    Attributes:
        size: S, side in pixels of the square.
        interpolation: Pillow's filter, one of `data.picture.INTERPOLATIONS`.
        fill: colour of the padding.
    """

    size: int = SIDE
    interpolation: str = "bilinear"
    fill: tuple[int, int, int] = FILL

    channels, resize = 3, 0  # as `Form` has them

    def fitted(self, image: Image.Image) -> Image.Image:
        """The square [S, S] of an RGB picture."""
        scale = self.size / max(image.size)
        square = Image.new("RGB", (self.size, self.size), self.fill)
        sides = [max(1, round(side * scale)) for side in image.size]
        square.paste(image.resize(sides, Image.Resampling[self.interpolation.upper()]))
        return square


def form_of(name: str, image_size: int, resize: int, interpolation: str) -> Letterbox:
    """The form that the options of a dataset's `load` ask for; raises `UserError`."""
    if resize:
        raise UserError(f"--resize {resize} would crop the boxes of {name}.\nLeave it out: --image_size alone resizes.")
    form = Letterbox(image_size or SIDE, interpolation or "bilinear")
    if form.interpolation not in picture.INTERPOLATIONS:
        raise unknown("interpolation", interpolation, picture.INTERPOLATIONS)
    return form


def inside(name: Any) -> str:
    """Returns a path that stays in its folder; raises `ValueError` for another one."""
    path = pathlib.PureWindowsPath(name)  # knows "/" and "\\"
    if not path.name or path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"the path {name!r} does not stay in its folder")
    return name


@dataclasses.dataclass(frozen=True)
class Annotated:
    """Pictures and their objects, in pixels of the pictures.

    Attributes:
        source: the N pictures, as `data.pictures.PictureSplit` has them.
        sizes: [N, 2] int, height and width.
        image: [M] int, ascending: the picture of each object.
        boxes: [M, 4] float64, (x1, y1, x2, y2).
        classes: [M] int.
        crowd: [M] bool.
        area: [M] float64.
    """

    source: Any
    sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    area: np.ndarray

    def fingerprint(self, contents: bool) -> str:
        """A digest of the pictures (`data.pictures.Files.fingerprint`) and of their objects."""
        digest = hashlib.sha256(self.source.fingerprint(contents).encode())
        for column in (self.sizes, self.image, self.boxes, self.classes, self.crowd, self.area):
            digest.update(np.ascontiguousarray(column, np.float64))
        return digest.hexdigest()


class BoxedSplit(PictureSplit):
    """A split of pictures in a `Letterbox`. Its labels are `data.objects.Objects`.

    A picture of another size than the one in its annotation cannot be read: its boxes would belong to other pixels.
    """

    advice = "Restore them; --skip_damaged with --loading memory leaves them out."

    def _square(self, content: bytes, example: int) -> np.ndarray:
        pixels, own = crops.colours(content), self.labels[example]
        size = tuple(np.rint(own.size / own.scale).astype(int).tolist())
        if size != pixels.shape[:2]:
            found = "{1} x {0} pixels, and {3} x {2} in its annotation".format(*pixels.shape[:2], *size)
            raise picture.Unreadable(found)
        return picture.square(Image.fromarray(pixels), self.form)

    def readable(self) -> tuple[Split, np.ndarray, list[str]]:
        """(the pictures that can be read, in memory; present [N] bool; a line for each of the others)."""

        def read():
            images, problems = self._parts(range(len(self)))
            present = np.ones(len(self), bool)
            present[list(problems)] = False
            return images[present], present, np.asarray(list(problems.values()), np.str_)

        if len(self) <= KEPT:
            images, present, lines = read()
        else:
            place = hashlib.sha256(f"{self.source.where(0)} {self.form}".encode(errors="surrogateescape"))
            place.update(self.labels.size)
            name = f"{self.name}-readable-{place.hexdigest()[:8]}"
            images, present, lines = decoded.kept(name, self.source.files(), read)
        return Split.of(images, self.labels[present]), present, lines.tolist()


def dataset(
    name: str,
    class_names: tuple[str, ...],
    annotated: dict[str, Annotated],
    form: Letterbox,
    notes: list[str],
    *,
    loading: str,
    skip_damaged: bool,
    check_files: bool,
) -> Dataset:
    """The dataset of annotated pictures.

    Boxes beyond their picture are clipped, and boxes without an area are left out; notes count both.

    Args:
        name: of the dataset.
        class_names: K names.
        annotated: split -> its pictures: train, test and perhaps val.
        form: of the images.
        notes: lines of the report, so far.
        loading, skip_damaged, check_files: as in `data.load`.
    """
    streamed = streams(loading, sum(len(own.sizes) for own in annotated.values()), (form.size, form.size, 3))
    if streamed and skip_damaged:
        raise UserError(SKIPS)
    splits, digests = {}, [hashlib.sha256(json.dumps(class_names).encode()).hexdigest()]
    counts = collections.Counter()
    for split, own in annotated.items():
        splits[split] = BoxedSplit(name, own.source, _objects(own, form, counts), form, any_size=False)
        digests.append(own.fingerprint(check_files))
    if skip_damaged:
        damaged = []
        for split, own in splits.items():
            splits[split], present, lines = own.readable()
            damaged += lines
            digests += [hashlib.sha256(present).hexdigest()] * bool(lines)
            if not present.any():
                raise DamagedFileError(f"{name}: all pictures of the {split} split are damaged. Replace them.")
        notes += counted("Left out, damaged (--skip_damaged)", damaged)
    return Dataset(
        name=name,
        **splits,
        class_names=class_names,
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(flip=True),
        fingerprint=" ".join(digests),
        interpolation=form.interpolation,
        notes=(
            f"Pictures keep their aspect; the rest of each square has the colour {form.fill}.",
            *notes,
            *(f"{what}: {count:,}." for what, count in counts.items() if count),
        ),
        streamed=streamed,
        task="detection",
    )


def _objects(own: Annotated, form: Letterbox, counts: collections.Counter) -> objects.Objects:
    """The objects in pixels of the squares; adds to the counts of the report."""
    boxes = np.clip(own.boxes, 0, own.sizes[own.image][:, [1, 0, 1, 0]])
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    clipped = (abs(boxes - own.boxes) > BORDER).any(axis=1)
    counts["Boxes beyond their picture, clipped"] += int((clipped & solid).sum())
    counts["Left out, boxes without an area"] += int((~solid).sum())
    counts["Crowds, neither targets nor counted as wrong"] += int(own.crowd[solid].sum())
    counts["Images without objects, which are kept"] += len(own.sizes) - len(np.unique(own.image[solid]))
    scale = form.size / own.sizes.max(axis=1)
    image, facts = own.image[solid], [column[solid] for column in (own.classes, own.crowd, own.area)]
    return objects.in_rows(image, boxes[solid] * scale[image, None], *facts, own.sizes * scale[:, None], scale)


def counted(what: str, names: list[str]) -> list[str]:
    """A line of the report with the number of names and the first ones; no line where there is none."""
    more = f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else ""
    return [f"{what}: {len(names):,} ({', '.join(name.strip() for name in names[:EXAMPLES])}{more})."] if names else []


def there(root: str | os.PathLike, files: list[str], where: str, skip_damaged: bool) -> tuple[np.ndarray, list[str]]:
    """(present [N] bool: which files are there; lines of the report).

    Raises:
        DamagedFileError: files are missing, and `skip_damaged` is False.
    """
    present = np.array([os.path.isfile(os.path.join(root, file)) for file in files], bool)
    missing = [file for file, found in zip(files, present, strict=True) if not found]
    lines = counted(f"Left out, not in {root} (--skip_damaged)", missing)
    if (missing and not skip_damaged) or not present.any():
        shown = ", ".join(missing[:EXAMPLES]) + ", ..." * (len(missing) > EXAMPLES)
        raise DamagedFileError(
            f"{len(missing):,} of {len(files):,} pictures of {where} are not in {root}: {shown}.\n"
            "Restore them; --skip_damaged leaves them out."
        )
    return present, lines
