"""Squares and random resized crops of pictures of any size, made on the host while the device trains.

The box of a crop follows from (seed, view, index) alone: NumPy's generator Philox has these numbers as its key. So any
thread of any process draws the same box, before or after an interruption.
"""

import math
import struct
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from data import picture
from data.augment import ASPECT, TRIES

REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers that are followed by a picture's size
END = b"\xff\xd9"  # the last bytes of a JPEG
BARE = frozenset([0x01, *range(0xD0, 0xD9)])  # JPEG's markers without a length


class Draws(NamedTuple):
    """The random numbers of one crop, which do not depend on the picture.

    Attributes:
        areas: [TRIES] float64 in [0, 1); 0 is the smallest area that is allowed, 1 the whole picture.
        aspects: [TRIES] float64 in [0, 1); shares of the way from the smallest to the largest logarithm.
        corner: [2] float64 in [0, 1); shares of the free rows and columns.
    """

    areas: np.ndarray
    aspects: np.ndarray
    corner: np.ndarray


def draws(seed: int, number: int, view: int, index: int) -> Draws:
    """The random numbers of an example's crop.

    Args:
        seed: the run's seed.
        number: position of the view among the views of a batch (`data.make_batch`).
        view: number of the random view of the example.
        index: the example.
    """
    key = (seed << 32 | number, (view & 0xFFFFFFFF) << 32 | index)  # before epoch 0 views are negative
    numbers = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(2 * TRIES + 2)
    return Draws(numbers[:TRIES], numbers[TRIES : 2 * TRIES], numbers[2 * TRIES :])


def box(drawn: Draws, least: float, height: int, width: int) -> tuple[int, int, int, int]:
    """The box of a crop, with the distribution of torchvision's RandomResizedCrop.

    Args:
        drawn: random numbers.
        least: smallest area, as a share of the picture's.
        height, width: of the picture, in pixels.

    Returns:
        (row and column of the corner, height, width). The first of the tries that fits into the picture; if none fits,
        the largest box with an allowed aspect, in the middle.
    """
    areas = (least + (1 - least) * drawn.areas) * (height * width)
    low, high = map(math.log, ASPECT)
    aspects = np.exp(low + (high - low) * drawn.aspects)
    widths, heights = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    if fits.any():
        first = int(np.argmax(fits))
        h, w = int(heights[first]), int(widths[first])
        return int(drawn.corner[0] * (height - h + 1)), int(drawn.corner[1] * (width - w + 1)), h, w
    h, w = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def read(content: bytes, form: picture.Form, drawn: Draws, least: float) -> np.ndarray:
    """A random crop of a picture, resized to the form's square.

    A JPEG is decoded at a half, a quarter or an eighth of its size where the crop still has at least as many pixels as
    the square. The filter is Pillow's, as in torchvision's transforms. Call it after `picture.always_reading`.

    Args:
        content: of the file.
        form: `size`, `channels` and `interpolation` are used.
        drawn: the random numbers of the crop.
        least: smallest area of the crop, as a share of the picture's.

    Returns:
        [size, size, channels] uint8.

    Raises:
        data.picture.Unreadable: the picture cannot be read. data.picture.Unscaled: as in `picture.read`.
    """
    image = colours(content, lambda *size: _factor(size, form.size, drawn, least))
    row, column, height, width = box(drawn, least, *image.shape[:2])
    cut = Image.fromarray(np.ascontiguousarray(image[row : row + height, column : column + width]))
    return picture.square(cut, form._replace(resize=0))


def whole(content: bytes, form: picture.Form) -> np.ndarray:
    """What `picture.read` makes of a picture, sooner for a JPEG: [size, size, channels] uint8."""
    return picture.square(Image.fromarray(colours(content)), form)


def colours(content: bytes, factor: Callable[[int, int], int] = lambda height, width: 1) -> np.ndarray:
    """The pixels of a picture, [H, W, 3] uint8, upright and opaque.

    OpenCV decodes a JPEG in a third to four fifths of Pillow's time, to the same bits. Pillow reads all others, and
    those that OpenCV does not read or does not read alike: of four channels, or ending early.

    Args:
        content: of the file.
        factor: (height, width) of a JPEG -> 1, 2, 4 or 8, by which it is reduced.
    """
    size = jpeg_size(content) if content[-2:] == END else None
    if size is None:
        return picture.whole(content)
    flag = REDUCED.get(factor(*size), cv2.IMREAD_COLOR)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return picture.whole(content) if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _factor(size: tuple[int, int], side: int, drawn: Draws, least: float) -> int:
    """1, 2, 4 or 8: the strongest reduction after which the crop of either orientation has at least `side` pixels."""
    shorter = min(min(box(drawn, least, *pair)[2:]) for pair in (size, size[::-1]))
    return max((factor for factor in REDUCED if shorter >= factor * side), default=1)


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG of one or three channels, from its header; None for another or a damaged file."""
    if content[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in SIZES:
            return struct.unpack_from(">HH", content, at + 5) if content[at + 9] in (1, 3) else None
        at += 1 if marker == 0xFF else 2 if marker in BARE else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
