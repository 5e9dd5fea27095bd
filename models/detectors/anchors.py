"""Anchors: the boxes at each position of a detector's maps that its answers are relative to.

Paper: Ren, He, Girshick, Sun. Faster R-CNN. NeurIPS 2015. arXiv:1506.01497; on several levels: Lin et al. Feature
Pyramid Networks for Object Detection. CVPR 2017. arXiv:1612.03144.
"""

import functools

import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # height / width


@functools.lru_cache(maxsize=64)
def anchors(
    image_size: tuple[int, int],
    strides: tuple[int, ...],
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[float, ...] = RATIOS,
) -> np.ndarray:
    """The anchors of an image.

    A level's map has ceil(side / stride) rows or columns. Anchor centres are at multiples of side // rows (or columns)
    from the left upper corner, as in torchvision. Sides are rounded to even numbers of pixels.

    Args:
        image_size: (H, W) in pixels, with the padding.
        strides: of each level.
        sizes: of each level: square roots of the areas, in pixels.
        ratios: height / width of the boxes; every ratio has every size.

    Returns:
        [A, 4] float32, not clipped to the image, in the order level, row, column, ratio, size. The array is shared: do
        not change it.
    """
    levels = [_level(image_size, stride, own, ratios) for stride, own in zip(strides, sizes, strict=True)]
    found = np.concatenate(levels)
    found.setflags(write=False)
    return found


def _grid(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    return tuple(-(-side // stride) for side in image_size)


def _level(image_size, stride, sizes, ratios):
    tall = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    sizes = np.asarray(sizes, np.float32)
    heights, widths = (tall * sizes).ravel(), ((1 / tall) * sizes).ravel()
    cell = np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)  # half to even
    rows, columns = (
        np.arange(n, dtype=np.float32) * (side // n)
        for n, side in zip(_grid(image_size, stride), image_size, strict=True)
    )
    y, x = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
    return (np.stack([x, y, x, y], axis=1)[:, None] + cell).reshape(-1, 4).astype(np.float32)
