"""Augmentation on the device. Each example has a random key, and all its random choices follow from that key.

Random erasing: Zhong, Zheng, Kang, Li, Yang. Random Erasing Data Augmentation. AAAI 2020. arXiv:1708.04896.
"""

import functools
import math

import jax
import jax.numpy as jnp

from data.dataset import Augmentation
from data.randaugment import fixmatch, randaugment, trivialaugment

# Numbers that an example's key is folded with. `jax.random.split` takes the numbers from 0 on, so these lie higher.
RESIZE, RANDAUGMENT, TRIVIALAUGMENT, ERASE = 16, 17, 18, 19
STRONG = (2, 10)  # operations and magnitude of RandAugment in a strong view
ASPECT, TRIES = (3 / 4, 4 / 3), 10
ERASED, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)  # share of the area, and height by width, of what is erased


def augment(images: jax.Array, keys: jax.Array, how: Augmentation, strong: bool = False) -> jax.Array:
    """Random views of a batch.

    Args:
        images: [B, H, W, C] uint8.
        keys: [B] typed random keys.
        how: static; mixing is not done here.
        strong: static; the RandAugment of `how.strong` replaces `how.randaugment` and `how.trivialaugment`.

    Returns:
        [B, H, W, C] float32 in [0, 1].
    """
    if how.pad or how.flip:
        draws = _places(keys, how)
    if how.resized_crop:
        boxes = crop_boxes(_folded(keys, RESIZE), how.resized_crop, *images.shape[1:3])
        images = resized_crop(images, boxes)
        if how.flip:
            images = flip(images, draws[:, 2])
    elif how.pad or how.flip:
        images = crop_and_flip(images, draws[:, :2], draws[:, 2] * int(how.flip), how)
    if strong and how.strong == "fixmatch":
        images = fixmatch(images, _folded(keys, RANDAUGMENT), STRONG[0])
    elif strong:
        images = randaugment(images, _folded(keys, RANDAUGMENT), *STRONG)
    elif how.randaugment:
        images = randaugment(images, _folded(keys, RANDAUGMENT), how.randaugment, how.magnitude)
    elif how.trivialaugment:
        images = trivialaugment(images, _folded(keys, TRIVIALAUGMENT))
    images = images.astype(jnp.float32) / 255.0
    if how.random_erasing:
        boxes = erased_boxes(_folded(keys, ERASE), how.random_erasing, *images.shape[1:3])
        colour = jnp.asarray(how.erase_with or (0.0,) * images.shape[-1], jnp.float32)
        images = jnp.where(pixels_inside(boxes, *images.shape[1:3])[..., None], colour, images)
    return images


def placement(keys: jax.Array, how: Augmentation, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Where `augment` moves the pixels of its images: a place (x, y) of an image goes to scale * (x, y) + shift.

    Args:
        keys, how: as in `augment`.
        height, width: of the images.

    Returns:
        (scale [B, 2], shift [B, 2]) float32; x first. A mirrored image has a negative scale of x.
    """
    scale, shift = jnp.ones((len(keys), 2)), jnp.zeros((len(keys), 2))
    size = jnp.array([width, height], jnp.float32)
    draws = _places(keys, how)
    if how.resized_crop:
        boxes = crop_boxes(_folded(keys, RESIZE), how.resized_crop, height, width).astype(jnp.float32)
        scale = size / boxes[:, [3, 2]]
        shift = -boxes[:, [1, 0]] * scale
    elif how.pad:
        shift = how.pad - draws[:, [1, 0]].astype(jnp.float32)
    if how.flip:
        mirrored = draws[:, 2:] * jnp.array([1, 0]) == 1
        scale, shift = jnp.where(mirrored, -scale, scale), jnp.where(mirrored, size - shift, shift)
    return scale, shift


def _places(keys: jax.Array, how: Augmentation) -> jax.Array:
    """For each image: row and column of the crop's corner in the padded image, and 1 where it is mirrored."""
    high = jnp.array([2 * how.pad + 1, 2 * how.pad + 1, 2])
    return jax.vmap(lambda key: jax.random.randint(key, (3,), 0, high))(keys)


def flip(images: jax.Array, flips: jax.Array) -> jax.Array:
    """Mirrors the images [B, H, W, C] where `flips` [B] is 1."""
    return jnp.where(flips[:, None, None, None] == 1, images[:, :, ::-1], images)


def crop_and_flip(images: jax.Array, offsets: jax.Array, flips: jax.Array, how: Augmentation) -> jax.Array:
    """Cuts the window with its corner at `offsets` out of each padded image, and mirrors it where `flips` is 1.

    Args:
        images: [B, H, W, C] uint8.
        offsets: [B, 2] int32 in [0, 2 * pad].
        flips: [B] int32, 0 or 1.
    """
    if not how.pad:
        return flip(images, flips)
    height, width = images.shape[1:3]
    rows = offsets[:, :1] + jnp.arange(height)
    columns = jnp.arange(width)
    columns = offsets[:, 1:] + jnp.where(flips[:, None] == 1, width - 1 - columns, columns)
    cut = {"default": functools.partial(cut_by_index, how=how), "tpu": functools.partial(cut_by_products, how=how)}
    return jax.lax.platform_dependent(images, rows, columns, **cut)


def cut_by_index(images: jax.Array, rows: jax.Array, columns: jax.Array, how: Augmentation) -> jax.Array:
    """The pixels at `rows` [B, H] and `columns` [B, W] of each padded image.

    XLA compiles that to one pass on CPU and GPU.
    """
    border = ((0, 0), (how.pad, how.pad), (how.pad, how.pad), (0, 0))
    images = jnp.pad(images, border, mode="reflect" if how.mode == "reflect" else "constant")
    example = jnp.arange(images.shape[0])[:, None, None]
    return images[example, rows[:, :, None], columns[:, None, :]]


def cut_by_products(images: jax.Array, rows: jax.Array, columns: jax.Array, how: Augmentation) -> jax.Array:
    """The same as two matrix products, by a matrix that has one 1 for each row, and one for each value of a row.

    A TPU pads the last axis of an array to 128 values. With 3 channels that makes the padded images 43 times as large,
    and padding and gathering them took a ninth of a distillation step. The products read rows of W * C values. Each
    sum has one term that is not 0, and a uint8 is exact in bfloat16, so the values do not change. A pixel outside of
    the image has no 1, so it is 0.
    """
    (count, height, width, channels), pad = images.shape, how.pad
    rows, columns = rows - pad, columns - pad
    if how.mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    values = (channels * columns[..., None] + jnp.arange(channels)).reshape(count, -1)
    values = values[:, None] == jnp.arange(width * channels)[:, None]
    chosen = (rows[..., None] == jnp.arange(height)).astype(jnp.bfloat16)
    flat = images.reshape(count, height, -1).astype(jnp.bfloat16)
    flat = chosen @ flat @ values.astype(jnp.bfloat16)
    return flat.reshape(images.shape).astype(images.dtype)


def _reflected(index: jax.Array, length: int) -> jax.Array:
    """The places that places outside of [0, length) are mirrored to, as `jnp.pad` with mode "reflect" does."""
    return length - 1 - jnp.abs(length - 1 - jnp.abs(index))


def crop_boxes(keys: jax.Array, least: float, height: int, width: int) -> jax.Array:
    """Boxes of random area and aspect, as torchvision's RandomResizedCrop draws them.

    A draw's area is uniform in [least, 1] times the image's area, and the logarithm of its aspect (width / height) is
    uniform. The first of ten draws that fits into the image is placed in it at random. If none fits, the box is the
    largest one with an allowed aspect, in the middle of the image.

    Returns:
        [B, 4] int32: row and column of the corner, height, width.
    """

    def box(key):
        keys = jax.random.split(key, 3)
        area = jax.random.uniform(keys[0], (TRIES,), minval=least, maxval=1.0) * (height * width)
        aspect = jax.random.uniform(keys[1], (TRIES,), minval=math.log(ASPECT[0]), maxval=math.log(ASPECT[1]))
        sizes = jnp.sqrt(area[:, None] * jnp.exp(jnp.stack([-aspect, aspect], axis=1)))
        sizes = jnp.maximum(jnp.round(sizes).astype(jnp.int32), 1)
        fits = jnp.all(sizes <= whole, axis=1)
        size = jnp.where(fits.any(), sizes[jnp.argmax(fits)], largest)
        corner = jax.random.randint(keys[2], (2,), 0, whole - size + 1)
        return jnp.concatenate([jnp.where(fits.any(), corner, (whole - size) // 2), size])

    whole = jnp.array([height, width], jnp.int32)
    inside = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    largest = jnp.array(inside, jnp.int32)
    return jax.vmap(box)(keys)


def resized_crop(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Resizes the inside of each box to the size of the image: bilinear, rounded, without pixels from outside the box.

    Args:
        images: [B, H, W, C] uint8.
        boxes: [B, 4] int32: row and column of the corner, height, width.

    Returns:
        [B, H, W, C] uint8.
    """
    example = jnp.arange(images.shape[0])[:, None]

    def between(start, size, length):
        """For each of `length` new pixels: (the old pixel before, the old pixel after, the weight of the second)."""
        scale = size.astype(jnp.float32)[:, None] / length
        place = jnp.maximum((jnp.arange(length, dtype=jnp.float32) + 0.5) * scale - 0.5, 0.0)
        first = jnp.minimum(jnp.floor(place).astype(jnp.int32), size[:, None] - 1)
        second = jnp.minimum(first + 1, size[:, None] - 1)
        return start[:, None] + first, start[:, None] + second, place - first.astype(jnp.float32)

    above, below, share = between(boxes[:, 0], boxes[:, 2], images.shape[1])
    share = share[:, :, None, None]
    rows = (1 - share) * images[example, above].astype(jnp.float32) + share * images[example, below].astype(jnp.float32)
    left, right, share = between(boxes[:, 1], boxes[:, 3], images.shape[2])
    share = share[:, None, :, None]
    rows = jnp.swapaxes(rows, 1, 2)  # now the columns are gathered as the rows were
    share = jnp.swapaxes(share, 1, 2)
    result = jnp.swapaxes((1 - share) * rows[example, left] + share * rows[example, right], 1, 2)
    return jnp.clip(jnp.floor(result + 0.5), 0, 255).astype(jnp.uint8)


def erased_boxes(keys: jax.Array, probability: float, height: int, width: int) -> jax.Array:
    """Boxes of random area and aspect, as torchvision's RandomErasing draws them.

    The area is uniform in [0.02, 0.33] of the image's, the logarithm of the aspect (height by width) is uniform in
    log 0.3 to log 3.3; of ten such draws the first whose sides are below the image's is placed anywhere in the image.

    Args:
        keys: [B] typed random keys.
        probability: of a box; static. The other images, and those into which no draw fits, have an empty box.
        height, width: static.

    Returns:
        [B, 4] int32: row and column of the corner, height, width.
    """

    def box(key):
        keys = jax.random.split(key, 4)
        area = jax.random.uniform(keys[0], (TRIES,), minval=ERASED[0], maxval=ERASED[1]) * (height * width)
        aspect = jax.random.uniform(keys[1], (TRIES,), minval=flat, maxval=tall)
        sizes = jnp.sqrt(area[:, None] * jnp.exp(jnp.stack([aspect, -aspect], axis=1)))
        sizes = jnp.round(sizes).astype(jnp.int32)
        fits = jnp.all(sizes < whole, axis=1)
        size = jnp.where(fits.any() & jax.random.bernoulli(keys[2], probability), sizes[jnp.argmax(fits)], 0)
        return jnp.concatenate([jax.random.randint(keys[3], (2,), 0, whole - size + 1), size])

    flat, tall = map(math.log, ERASED_ASPECT)
    whole = jnp.array([height, width], jnp.int32)
    return jax.vmap(box)(keys)


def pixels_inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W] bool: the pixels in each box of `boxes` [B, 4] (row and column of the corner, height, width)."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    rows, columns = jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32)
    found = ((rows >= low[:, :1]) & (rows < high[:, :1]))[:, :, None]
    return found & ((columns >= low[:, 1:]) & (columns < high[:, 1:]))[:, None, :]


def _folded(keys, number):
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)
