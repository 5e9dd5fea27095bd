"""RandAugment on the device: some operations drawn for each image, all of one strength.

Paper: Cubuk, Zoph, Shlens, Le. RandAugment: Practical automated data augmentation with a reduced search space.
NeurIPS 2020. arXiv:1909.13719.

The list, the strengths and the scale of `magnitude` (0 to 30) are torchvision's: 14 operations, nearest-neighbour
sampling, black outside the image. Each operation gives Pillow's result in whole grey levels; blends may differ by one
level where float32 rounds. On images of fewer than 256 pixels Equalize changes nothing, as in Pillow.

`trivialaugment` is TrivialAugment's wide list: one operation an image, of a strength drawn anew.
Paper: Müller, Hutter. TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation. ICCV 2021. arXiv:2103.10158.

`fixmatch` is what the code of FixMatch and of MLKD calls RandAugment(2, 10). MLKD's published numbers depend on it. The
magnitude is not used: each strength is drawn from a range. At the end a grey square covers a part of the image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
BLENDS = ("Color", "Contrast", "Brightness", "Sharpness")
OPS = ("Identity", "AutoContrast", "Equalize", "Solarize", "Posterize", *BLENDS, *GEOMETRY)
LEVELS = 30  # the largest magnitude
CUTOUT_GREY = (125, 123, 114)  # FixMatch's, the mean of CIFAR's pixels


def randaugment(images: jax.Array, keys: jax.Array, count: int, magnitude: int) -> jax.Array:
    """Applies `count` operations, each drawn uniformly, with the given magnitude and a random sign.

    Args:
        images: [B, H, W, C] uint8.
        keys: [B] typed random keys; an image depends on its own key alone.
        count: static.
        magnitude: static, 0 to 30.

    Returns:
        [B, H, W, C] uint8.
    """
    table = jnp.asarray(strengths(magnitude, *images.shape[1:3]))
    for turn in range(count):
        draws = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, jnp.array([len(OPS), 2])))(_folded(keys, turn))
        images = apply(images, draws[:, 0], table[draws[:, 1], draws[:, 0]])
    return images


def trivialaugment(images: jax.Array, keys: jax.Array) -> jax.Array:
    """One operation for each image: torchvision's `TrivialAugmentWide`.

    The operation, its magnitude (0 to 30) and its sign are drawn uniformly.

    Args: as of `randaugment`.
    """
    bounds = jnp.array([len(OPS), LEVELS + 1, 2])
    draws = jax.vmap(lambda k: jax.random.randint(k, (3,), 0, bounds))(keys)
    return apply(images, draws[:, 0], jnp.asarray(wide_strengths())[draws[:, 2], draws[:, 1], draws[:, 0]])


def fixmatch(images: jax.Array, keys: jax.Array, count: int) -> jax.Array:
    """Applies `count` operations, each with a strength drawn from its range, then `cutout` of up to half the width.

    Arguments and result are those of `randaugment`.
    """
    height, width = images.shape[1:3]
    low, high = (jnp.asarray(row) for row in fixmatch_ranges(height, width))
    for turn in range(count):
        own = _folded(keys, turn)
        op = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(OPS)))(own)
        share = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, len(OPS))))(own)
        images = apply(images, op, low[op] + (high - low)[op] * share)
    draws = jax.vmap(lambda k: jax.random.uniform(k, (3,)))(_folded(keys, count))
    return cutout(images, draws[:, 0] * (0.5 * width), draws[:, 1:] * jnp.array([height, width], jnp.float32))


def strengths(magnitude: int, height: int, width: int) -> np.ndarray:
    """[2, operations] float32: the strength of each operation; row 0 is positive and row 1 is negative."""
    share = magnitude / LEVELS
    factor, shift = 0.9 * share, 150 / 331 * share
    signed = {name: (1 + factor, 1 - factor) for name in BLENDS}
    signed |= {"Rotate": (30 * share, -30 * share)}
    signed |= {name: (0.3 * share, -0.3 * share) for name in ("ShearX", "ShearY")}
    signed |= {"TranslateX": (int(shift * width), -int(shift * width))}
    signed |= {"TranslateY": (int(shift * height), -int(shift * height))}
    signed |= {"Posterize": (8 - round(4 * share),) * 2, "Solarize": (255 * (1 - share),) * 2}
    return np.array([[signed.get(name, (0, 0))[sign] for name in OPS] for sign in (0, 1)], np.float32)


def wide_strengths() -> np.ndarray:
    """[2, 31, operations] float32: TrivialAugment's strengths, with either sign, of each magnitude and operation.

    A translation is by up to 32 pixels whatever the size of the image, as published.
    """
    share = np.arange(LEVELS + 1) / LEVELS
    signed = {name: 0.99 * share for name in (*BLENDS, "ShearX", "ShearY")}
    signed |= {"Rotate": 135 * share, "TranslateX": np.floor(32 * share), "TranslateY": np.floor(32 * share)}
    whole = {"Posterize": 8 - np.round(6 * share), "Solarize": 255 * (1 - share)}
    nothing = 0 * share
    rows = [
        [whole[name] if name in whole else (name in BLENDS) + sign * signed.get(name, nothing) for name in OPS]
        for sign in (1, -1)
    ]
    return np.array(rows, np.float32).transpose(0, 2, 1)


def fixmatch_ranges(height: int, width: int) -> np.ndarray:
    """[2, operations] float32: the least and the greatest strength of each operation in FixMatch's list."""
    ranges = {name: (0.05, 0.95) for name in BLENDS}
    ranges |= {"Rotate": (-30, 30), "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3)}
    ranges |= {"TranslateX": (-0.3 * width, 0.3 * width), "TranslateY": (-0.3 * height, 0.3 * height)}
    ranges |= {"Posterize": (4, 8), "Solarize": (0, 256)}
    return np.array([[ranges.get(name, (0, 0))[end] for name in OPS] for end in (0, 1)], np.float32)


def apply(images: jax.Array, op: jax.Array, strength: jax.Array) -> jax.Array:
    """Applies one operation to each image.

    A switch for each image would compute every branch for every image. So the operations share work: those that move
    pixels use one gather, those on single pixels one table of 256 levels, Color and Sharpness one blend.

    Args:
        images: [B, H, W, C] uint8.
        op: [B] int32, position in `OPS`.
        strength: [B] float32. Rotate: degrees, counter-clockwise; Shear: pixels per pixel; Translate: pixels;
            Color, Contrast, Brightness, Sharpness: 1 gives the image; 0 gives grey, the mean, black, a smoothed image;
            Solarize: threshold; Posterize: bits, rounded down. The other operations do not use it.

    Returns:
        [B, H, W, C] uint8.
    """
    pixels = _moved(images, op, strength).astype(jnp.int32)
    batch, channel = jnp.arange(images.shape[0])[:, None, None, None], jnp.arange(images.shape[-1])
    pixels = _levels(pixels, op[:, None, None], strength[:, None, None])[batch, channel, pixels]
    op, strength = op[:, None, None, None], strength[:, None, None, None]
    base = jnp.where(op == OPS.index("Color"), _grey(pixels), _smooth(pixels))
    blends = (op == OPS.index("Color")) | (op == OPS.index("Sharpness"))
    return jnp.where(blends, _blend(base, pixels, strength), pixels).astype(jnp.uint8)


def _levels(pixels, op, strength):
    """[B, C, 256] int32: the new value of each level of each channel, for the operations on single pixels.

    Args:
        pixels: [B, H, W, C] int32.
        op, strength: [B, 1, 1].
    """
    level = jnp.arange(256, dtype=jnp.int32)[None, None, :]

    def where(name, changed, otherwise):
        return jnp.where(op == OPS.index(name), changed, otherwise)

    mean = jnp.mean(_grey(pixels).astype(jnp.float32), axis=(1, 2))[:, :, None]
    mean = jnp.floor(mean + 0.5).astype(jnp.int32)
    dropped = jnp.left_shift(1, jnp.clip(8 - jnp.floor(strength).astype(jnp.int32), 0, 8)) - 1
    low, high = pixels.min(axis=(1, 2))[:, :, None], pixels.max(axis=(1, 2))[:, :, None]
    stretched = jnp.clip((level - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    table = where("Brightness", _blend(jnp.zeros_like(level), level, strength), level)
    table = where("Contrast", _blend(mean, level, strength), table)
    table = where("Posterize", level & ~dropped, table)
    table = where("Solarize", jnp.where(level.astype(jnp.float32) < strength, level, 255 - level), table)
    table = where("AutoContrast", jnp.where(high > low, stretched, level), table)
    return where("Equalize", _equalized(pixels, high, level), table)


def _blend(base, pixels, factor):
    """base + factor * (pixels - base), rounded down to whole levels and clipped to [0, 255] as Pillow does."""
    blended = base.astype(jnp.float32) + factor * (pixels - base).astype(jnp.float32)
    return jnp.clip(jnp.floor(blended), 0, 255).astype(jnp.int32)


def cutout(images: jax.Array, side: jax.Array, centre: jax.Array) -> jax.Array:
    """Paints grey squares of `side` [B] pixels around `centre` [B, 2] (row, column), as FixMatch's code does."""
    height, width, channels = images.shape[1:]
    corner = jnp.floor(jnp.maximum(centre - side[:, None] / 2, 0.0))
    end = jnp.floor(corner + side[:, None])  # the last row and column that are painted
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    inside = ((rows >= corner[:, :1]) & (rows <= end[:, :1]))[:, :, None]
    inside = inside & ((columns >= corner[:, 1:]) & (columns <= end[:, 1:]))[:, None, :]
    grey = jnp.asarray(CUTOUT_GREY if channels == 3 else (122,) * channels, jnp.uint8)
    return jnp.where((inside & (side > 0)[:, None, None])[..., None], grey, images)


def _folded(keys, number):
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def _moved(images, op, strength):
    """Rotates, shears and translates in one gather: nearest neighbour, black outside. Other images do not change."""
    height, width = images.shape[1:3]

    def only(name):
        return jnp.where(op == OPS.index(name), strength, 0.0)

    angle = only("Rotate") * (-math.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    xx, xy, yx, yy = cos, sin + only("ShearX"), only("ShearY") - sin, cos
    x = width / 2 - cos * (width / 2) - sin * (height / 2) + only("TranslateX")  # rotated about the centre
    y = height / 2 + sin * (width / 2) - cos * (height / 2) + only("TranslateY")
    columns, rows = jnp.arange(width, dtype=jnp.int32), jnp.arange(height, dtype=jnp.int32)[:, None]

    def source(start, by_column, by_row):  # in whole units of 1/65536 pixel, as in Pillow
        start, by_column, by_row = (
            jnp.floor(v * 65536 + 0.5).astype(jnp.int32)[:, None, None]
            for v in (start + (by_column + by_row) / 2, by_column, by_row)
        )
        return (start + by_column * columns + by_row * rows) >> 16

    x, y = source(x, xx, xy), source(y, yx, yy)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    example = jnp.arange(images.shape[0])[:, None, None]
    found = images[example, jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
    return jnp.where(inside[..., None], found, jnp.zeros_like(found))


def _grey(pixels):
    """[B, H, W, 1] int32: ITU-R 601 luma as Pillow rounds it; the mean if the number of channels is not three."""
    if pixels.shape[-1] != 3:
        return (jnp.sum(pixels, axis=-1, keepdims=True) + pixels.shape[-1] // 2) // pixels.shape[-1]
    luma = jnp.sum(pixels * jnp.array([19595, 38470, 7471], jnp.int32), axis=-1, keepdims=True)
    return (luma + 32768) >> 16


def _smooth(pixels):
    """3x3 mean in which the centre counts five times; the border stays."""
    height, width = pixels.shape[1:3]
    if min(height, width) < 3:
        return pixels
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * pixels[:, 1:-1, 1:-1]
    return pixels.at[:, 1:-1, 1:-1].set(((total + 6).astype(jnp.uint32) // 13).astype(jnp.int32))


def _equalized(pixels, high, level):
    """[B, C, 256] int32: the table that makes each channel's histogram flat.

    Args:
        pixels: [B, H, W, C] int32.
        high: [B, C, 1] int32, the largest level of each channel.
        level: [1, 1, 256] int32, the levels.
    """
    batch, channels = pixels.shape[0], pixels.shape[-1]
    place = jnp.arange(batch)[:, None, None, None], jnp.arange(channels), pixels
    counts = jnp.zeros((batch, channels, 256), jnp.int32).at[place].add(1)
    below = jnp.cumsum(counts, axis=2) - counts
    step = jnp.take_along_axis(below, high, axis=2) // 255
    return jnp.where(step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), level)
