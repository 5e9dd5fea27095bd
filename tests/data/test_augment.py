import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data import Augmentation
from data.augment import augment, crop_and_flip, crop_boxes, cut_by_products, erased_boxes, resized_crop

view = jax.jit(augment, static_argnames=("how", "strong"))
IMAGES = np.random.RandomState(1).randint(0, 256, (25, 7, 5, 3)).astype(np.uint8)


def reference(images, offsets, flips, pad, mode):
    """The same in NumPy, image by image: pad, cut, mirror."""
    height, width = images.shape[1:3]
    result = []
    for image, (row, column), flip in zip(images, offsets, flips, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode={"zero": "constant"}.get(mode, mode))
        window = padded[row : row + height, column : column + width]
        result.append(window[:, ::-1] if flip else window)
    return np.stack(result)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_crop_and_flip_are_numpys(pad, mode):
    random = np.random.RandomState(pad)
    for _ in range(2):
        offsets, flips = random.randint(0, 2 * pad + 1, (25, 2)), random.randint(0, 2, 25)
        offsets[0], offsets[1] = 0, 2 * pad  # the corners
        found = jax.jit(crop_and_flip, static_argnums=3)(
            jnp.asarray(IMAGES),
            jnp.asarray(offsets, jnp.int32),
            jnp.asarray(flips, jnp.int32),
            Augmentation(pad=pad, mode=mode, flip=True),
        )
        assert found.dtype == jnp.uint8
        np.testing.assert_array_equal(found, reference(IMAGES, offsets, flips, pad, mode))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_tpus_products_cut_out_the_same_pixels(mode):
    random, how = np.random.RandomState(2), Augmentation(pad=3, mode=mode, flip=True)
    offsets, flips = random.randint(0, 7, (25, 2)), random.randint(0, 2, 25)
    columns = np.where(flips[:, None] == 1, 4 - np.arange(5), np.arange(5)) + offsets[:, 1:]
    found = cut_by_products(jnp.asarray(IMAGES), offsets[:, :1] + np.arange(7), columns, how)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, reference(IMAGES, offsets, flips, 3, mode))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_a_tpu_cuts_by_products(platform):
    shapes = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in (((4, 8, 8, 3), "uint8"), ((4, 2), "int32"))]
    cut = jax.jit(crop_and_flip, static_argnums=3).trace(*shapes, jax.ShapeDtypeStruct((4,), "int32"), Augmentation(2))
    text = cut.lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in text, "gather" in text) == (platform == "tpu", platform != "tpu")


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_without_padding_and_flip_the_view_is_the_image():
    found = view(jnp.asarray(IMAGES), keys(25), Augmentation())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, IMAGES / 255.0, rtol=1e-6)


@pytest.mark.parametrize(
    "how", [Augmentation(pad=2), Augmentation(flip=True), Augmentation(pad=2, mode="reflect", flip=True)], ids=str
)
def test_every_view_is_one_of_the_possible_ones_and_all_of_them_occur(how):
    height, width = 4, 4
    image = np.random.RandomState(2).randint(1, 256, (1, height, width, 1)).astype(np.uint8)
    possible = set()
    for row in range(2 * how.pad + 1):
        for column in range(2 * how.pad + 1):
            for flip in (0, 1)[: 1 + how.flip]:
                possible.add(reference(image, [(row, column)], [flip], how.pad, how.mode).tobytes())
    count = 64 * len(possible)
    found = np.asarray(view(jnp.asarray(np.repeat(image, count, axis=0)), keys(count), how))
    assert 0 <= found.min() <= found.max() <= 1
    views = collections.Counter(each.tobytes() for each in np.round(found * 255).astype(np.uint8))
    shares = {each: times / count for each, times in views.items()}
    assert set(shares) == possible
    assert max(shares.values()) < 1.6 / len(possible)  # all equally likely: 64 +- 8 of each are expected
    assert min(shares.values()) > 0.4 / len(possible)


def test_a_view_depends_on_its_own_key_alone():
    how = Augmentation(pad=2, flip=True)
    whole = view(jnp.asarray(IMAGES), keys(25), how)
    part = view(jnp.asarray(IMAGES[10:13]), keys(25)[10:13], how)
    np.testing.assert_array_equal(part, whole[10:13])


def test_black_and_white_stay_within_0_and_1():
    for value in (0, 255):
        image = jnp.full((4, 6, 6, 1), value, jnp.uint8)
        found = view(image, keys(4), Augmentation(pad=2, mode="reflect", flip=True))
        np.testing.assert_array_equal(found, value / 255)


def bilinear(image, box):
    """The crop enlarged to the image's size, pixel by pixel in float64."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width].astype(np.float64)
    result = np.empty(image.shape)
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            y = min(max((r + 0.5) * height / image.shape[0] - 0.5, 0), height - 1)
            x = min(max((c + 0.5) * width / image.shape[1] - 0.5, 0), width - 1)
            (r0, dy), (c0, dx) = (int(y), y % 1), (int(x), x % 1)
            r1, c1 = min(r0 + 1, height - 1), min(c0 + 1, width - 1)
            above = (1 - dx) * crop[r0, c0] + dx * crop[r0, c1]
            below = (1 - dx) * crop[r1, c0] + dx * crop[r1, c1]
            result[r, c] = (1 - dy) * above + dy * below
    return result


BOXES = np.array([[0, 0, 7, 5], [1, 2, 3, 3], [6, 4, 1, 1], [0, 1, 7, 2], [2, 0, 2, 5], [3, 1, 4, 4]], np.int32)


def test_a_resized_crop_is_numpys_and_pillows():
    found = np.asarray(jax.jit(resized_crop)(IMAGES[:6], BOXES))
    assert found.dtype == np.uint8
    for image, box, result in zip(IMAGES, BOXES, found, strict=False):
        assert np.abs(result - bilinear(image, box)).max() <= 0.5 + 1e-3
        crop = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        theirs = np.asarray(Image.fromarray(crop).resize((5, 7), Image.Resampling.BILINEAR))
        assert np.abs(result.astype(int) - theirs).max() <= 1  # Pillow rounds after the columns, too
    np.testing.assert_array_equal(found[0], IMAGES[0])


def boxes(least, height, width, count=3000):
    return np.asarray(jax.jit(crop_boxes, static_argnums=(1, 2, 3))(keys(count), least, height, width))


def torchvision_box(random, least, height, width):
    """RandomResizedCrop.get_params."""
    for _ in range(10):
        area = height * width * random.uniform(least, 1.0)
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h + 1), random.randint(0, width - w + 1), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        h, w = height, round(height * 4 / 3)
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("least", "height", "width"), [(0.08, 32, 32), (0.9, 10, 40), (0.9, 40, 10)])
def test_boxes_are_drawn_as_torchvision_draws_them(least, height, width):
    found = boxes(least, height, width)
    assert found.dtype == np.int32
    assert found[:, 2:].min() >= 1
    assert found.min() >= 0
    assert ((found[:, 0] + found[:, 2] <= height) & (found[:, 1] + found[:, 3] <= width)).all()
    random = np.random.RandomState(0)
    theirs = np.array([torchvision_box(random, least, height, width) for _ in range(9000)])
    for ours, expected in zip(found.T, theirs.T, strict=True):
        places = np.unique(expected)
        gap = [(ours <= p).mean() - (expected <= p).mean() for p in places]
        assert np.abs(gap).max() < 0.045  # less than 2e-4 of such samples are further apart


def test_a_resized_crop_takes_the_place_of_the_padded_one_and_is_mirrored():
    how = Augmentation(pad=3, flip=True, resized_crop=0.3)
    found = np.asarray(view(jnp.asarray(IMAGES), keys(25), how))
    plain = np.asarray(view(jnp.asarray(IMAGES), keys(25), Augmentation(resized_crop=0.3)))
    level = 1.01 / 255  # two programs may round to neighbouring ones
    mirrored = (np.abs(found - plain[:, :, ::-1]) < level).all((1, 2, 3))
    assert (mirrored | (np.abs(found - plain) < level).all((1, 2, 3))).all()
    assert 4 < mirrored.sum() < 21


EVERYTHING = Augmentation(flip=True, resized_crop=0.4, randaugment=2, magnitude=20)


@pytest.mark.parametrize(("shape", "strong"), [((7, 5, 3), False), ((8, 8, 1), True)], ids=str)
def test_everything_at_once_stays_within_0_and_1_and_depends_on_its_own_key(shape, strong):
    images = np.random.RandomState(4).randint(0, 256, (12, *shape)).astype(np.uint8)
    how = Augmentation(pad=1, flip=True, strong="fixmatch") if strong else EVERYTHING
    whole = np.asarray(view(jnp.asarray(images), keys(12), how, strong))
    assert whole.shape == images.shape
    assert whole.dtype == np.float32
    assert 0 <= whole.min() <= whole.max() <= 1
    np.testing.assert_array_equal(view(jnp.asarray(images[::-1]), keys(12)[::-1], how, strong), whole[::-1])


def test_a_strong_view_is_the_weak_one_with_randaugment_on_top():
    how = Augmentation(pad=2, flip=True)
    weak, strong = (np.asarray(view(jnp.asarray(IMAGES), keys(25), how, s)) for s in (False, True))
    changed = (weak != strong).any((1, 2, 3))
    assert changed.sum() > 15
    usual = np.asarray(view(jnp.asarray(IMAGES), keys(25), Augmentation(pad=2, flip=True, randaugment=2, magnitude=10)))
    np.testing.assert_array_equal(usual, strong)


def torchvision_erased(random, height, width):
    """RandomErasing.get_params with its defaults: (height, width) of what is erased; (0, 0) where nothing fits."""
    for _ in range(10):
        area = height * width * random.uniform(0.02, 0.33)
        aspect = np.exp(random.uniform(np.log(0.3), np.log(3.3)))
        h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if h < height and w < width:
            return h, w
    return 0, 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 40)])
def test_erased_boxes_are_drawn_as_torchvision_draws_them(height, width):
    found = np.asarray(jax.jit(erased_boxes, static_argnums=(1, 2, 3))(keys(3000), 1.0, height, width))
    assert found.min() >= 0
    assert ((found[:, 0] + found[:, 2] <= height) & (found[:, 1] + found[:, 3] <= width)).all()
    random = np.random.RandomState(0)
    theirs = np.array([torchvision_erased(random, height, width) for _ in range(9000)])
    for ours, expected in zip(found[:, 2:].T, theirs.T, strict=True):
        gap = [(ours <= p).mean() - (expected <= p).mean() for p in np.unique(expected)]
        assert np.abs(gap).max() < 0.045  # less than 2e-4 of such samples are further apart
    for corner, size, side in zip(found[:, :2].T, found[:, 2:].T, (height, width), strict=True):
        assert abs((corner / (side - size)).mean() - 0.5) < 0.03


def test_erasing_paints_one_rectangle_in_the_colour_in_so_many_of_the_views():
    image, colour = np.full((1, 16, 16, 3), 255, np.uint8), (0.25, 0.5, 0.75)
    how = Augmentation(random_erasing=0.25, erase_with=colour)
    found = np.asarray(view(jnp.asarray(np.repeat(image, 2000, axis=0)), keys(2000), how))
    erased = (found != 1).any(-1)
    assert abs(erased.any((1, 2)).mean() - 0.25) < 0.04
    np.testing.assert_array_equal(found[erased], np.broadcast_to(np.float32(colour), (erased.sum(), 3)))
    for mask in erased[erased.any((1, 2))]:
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns[None])
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == np.diff(np.flatnonzero(columns)).max(initial=1) == 1
    normalised = (found - np.float32(colour)) / 0.2
    np.testing.assert_array_equal(normalised[erased], 0)
    black = np.asarray(view(jnp.asarray(np.repeat(image, 50, axis=0)), keys(50), Augmentation(random_erasing=1.0)))
    assert set(np.unique(black)) == {0, 1}


def test_what_comes_last_does_not_change_what_comes_before():
    """Erasing and TrivialAugment have random numbers of their own: crop and flip stay those of the plain view."""
    how = Augmentation(pad=2, flip=True)
    plain = np.asarray(view(jnp.asarray(IMAGES), keys(25), how))
    erased = np.asarray(view(jnp.asarray(IMAGES), keys(25), Augmentation(pad=2, flip=True, random_erasing=1.0)))
    kept = (erased != 0).all(-1)
    np.testing.assert_array_equal(erased[kept], plain[kept])
    assert 0.3 < kept.mean() < (plain != 0).all(-1).mean() - 0.05
    trivial = np.asarray(view(jnp.asarray(IMAGES), keys(25), Augmentation(pad=2, flip=True, trivialaugment=True)))
    same = (trivial == plain).all((1, 2, 3))
    assert 1 <= same.sum() < 20  # Identity, and what changes nothing
    strong = [
        view(jnp.asarray(IMAGES), keys(25), h, True) for h in (how, Augmentation(2, flip=True, trivialaugment=True))
    ]
    np.testing.assert_array_equal(*strong)
