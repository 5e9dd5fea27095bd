"""Each operation beside Pillow's, and the draws beside their distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from data import randaugment as ra

SHAPES = [(32, 32, 3), (20, 27, 3), (8, 8, 1), (32, 32, 1)]
apply = jax.jit(ra.apply)


@functools.cache
def images(shape):
    """Noise, noise in a narrow range, a smooth ramp, one level, black and white: 6 images."""
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, shape)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] * 3 + np.arange(shape[2]) * 20
    two = np.where(random.rand(*shape) < 0.9, 30, 200)
    return np.stack([noise, 90 + noise // 4, ramp % 256, np.full(shape, 77), two, 255 * (noise > 127)]).astype(np.uint8)


def pillow(image, name, strength):
    """One image [H, W, C] through Pillow."""
    grey = image.shape[-1] == 1
    source = Image.fromarray(image[..., 0] if grey else image)
    affine = {
        "ShearX": (1, strength, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, strength, 1, 0),
        "TranslateX": (1, 0, strength, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, strength),
    }
    if name in affine:
        found = source.transform(source.size, Image.Transform.AFFINE, affine[name])
    elif name in ra.BLENDS:
        found = getattr(ImageEnhance, name)(source).enhance(strength)
    else:
        found = {
            "Identity": lambda: source,
            "AutoContrast": lambda: ImageOps.autocontrast(source),
            "Equalize": lambda: ImageOps.equalize(source),
            "Solarize": lambda: ImageOps.solarize(source, strength),
            "Posterize": lambda: ImageOps.posterize(source, int(strength)),
            "Rotate": lambda: source.rotate(strength),
        }[name]()
    found = np.asarray(found)
    return found[..., None] if grey else found


STRENGTHS = {
    "Identity": [0.0],
    "AutoContrast": [0.0],
    "Equalize": [0.0],
    "Solarize": [0.0, 100.0, 170.0, 170.5, 255.0, 256.0],
    "Posterize": [1.0, 4.7, 7.0, 8.0],
    "Color": [0.05, 0.7, 1.0, 1.3, 1.9],
    "Contrast": [0.05, 0.7, 1.0, 1.3, 1.9],
    "Brightness": [0.05, 0.7, 1.0, 1.3, 1.9],
    "Sharpness": [0.05, 0.7, 1.0, 1.3, 1.9],
    "Rotate": [-30.0, -10.0, 0.0, 3.0, 25.0],
    "ShearX": [-0.3, 0.1, 0.25],
    "ShearY": [-0.3, 0.1, 0.25],
    "TranslateX": [-4.0, 0.0, 3.0, 2.4],
    "TranslateY": [-4.0, 0.0, 3.0, 2.4],
}


def test_the_list_is_the_papers():
    assert set(STRENGTHS) == set(ra.OPS)
    assert len(ra.OPS) == 14


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ra.OPS)
def test_each_operation_is_pillows(name, shape):
    source = images(shape)
    for strength in STRENGTHS[name]:
        op = jnp.full(len(source), ra.OPS.index(name), jnp.int32)
        found = np.asarray(apply(source, op, jnp.full(len(source), strength, jnp.float32)))
        assert found.dtype == np.uint8
        expected = np.stack([pillow(image, name, strength) for image in source])
        off = np.abs(found.astype(int) - expected)
        if name in ra.GEOMETRY:  # a pixel may come from its neighbour where a float32 rounds
            assert (off > 0).mean() <= 0.002, (strength, (off > 0).mean())
        else:
            assert off.max() <= 1, (strength, off.max())
            assert (off > 0).mean() <= 0.02, (strength, (off > 0).mean())


def test_a_batch_of_different_operations_is_each_of_them():
    source = np.repeat(images((20, 27, 3))[:1], 6, axis=0)  # as large a batch as above: the same program
    strength = np.array([STRENGTHS[name][-1] for name in ra.OPS], np.float32)
    for first in (0, 6, len(ra.OPS) - 6):
        ops = np.arange(first, first + 6, dtype=np.int32)
        found = apply(source, ops, strength[ops])
        for i, op in enumerate(ops):
            alone = apply(source, np.full(6, op, np.int32), np.full(6, strength[op]))
            np.testing.assert_array_equal(found[i], alone[0], err_msg=ra.OPS[op])


def test_strengths_are_torchvisions():
    """Magnitude 10 of 30 at 32 pixels: torchvision's linspace tables, written down."""
    table = dict(zip(ra.OPS, ra.strengths(10, 20, 32).T.tolist(), strict=True))
    expected = {
        "Rotate": [10, -10],
        "ShearX": [0.1, -0.1],
        "TranslateX": [4, -4],  # int(150 / 331 * 32 / 3)
        "TranslateY": [3, -3],
        "Brightness": [1.3, 0.7],
        "Sharpness": [1.3, 0.7],
        "Posterize": [7, 7],
        "Solarize": [170, 170],
        "Identity": [0, 0],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(table[name], value, rtol=1e-6, err_msg=name)
    assert (ra.strengths(0, 8, 8)[:, [ra.OPS.index(n) for n in ra.BLENDS]] == 1).all()
    assert ra.strengths(30, 8, 8)[0, ra.OPS.index("Posterize")] == 4


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def chi_square(counts):
    """In units of its standard deviation above its mean."""
    counts = np.asarray(counts)
    expected, freedom = counts.sum() / len(counts), len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_operations_and_signs_are_equally_likely_and_independent_over_turns():
    """Seen through `apply`, which records what it is asked for instead of doing it."""
    asked = []
    original = ra.apply
    try:
        ra.apply = lambda i, op, strength: asked.append((np.asarray(op), np.asarray(strength))) or i
        ra.randaugment(jnp.zeros((4000, 8, 8, 1), jnp.uint8), keys(4000), 2, 10)
    finally:
        ra.apply = original
    (first, strength), (second, _) = asked
    assert chi_square(np.bincount(first, minlength=14)) < 4
    assert chi_square(np.bincount(second, minlength=14)) < 4
    assert chi_square(np.bincount(14 * first + second, minlength=196)) < 4
    rotated = strength[first == ra.OPS.index("Rotate")]
    assert set(rotated) == {-10.0, 10.0}
    assert 0.4 < (rotated > 0).mean() < 0.6


@pytest.mark.slow
def test_fixmatch_draws_strengths_from_its_ranges_and_cuts_a_square_out():
    asked = []
    original = ra.apply
    try:
        ra.apply = lambda i, op, strength: asked.append((np.asarray(op), np.asarray(strength))) or i
        found = np.asarray(ra.fixmatch(jnp.zeros((3000, 16, 16, 3), jnp.uint8), keys(3000), 2))
    finally:
        ra.apply = original
    assert len(asked) == 2
    for op, strength in asked:
        assert chi_square(np.bincount(op, minlength=14)) < 4
        factors = strength[np.isin(op, [ra.OPS.index(n) for n in ra.BLENDS])]
        assert 0.05 <= factors.min() < 0.1
        assert 0.9 < factors.max() <= 0.95
        moved = strength[op == ra.OPS.index("TranslateX")]
        assert abs(moved).max() <= 0.3 * 16
        assert moved.min() < -4 < 4 < moved.max()
        thresholds = strength[op == ra.OPS.index("Solarize")]
        assert chi_square(np.bincount((thresholds / 32).astype(int), minlength=8)) < 4
    assert not np.array_equal(asked[0][0], asked[1][0])
    grey = (found == ra.CUTOUT_GREY).all(-1)
    assert (grey | (found == 0).all(-1)).all()
    sides = grey.any(1).sum(1)
    assert sides.max() == 8  # of less than 8 pixels, and the last one that is touched is painted
    assert grey.sum((1, 2)).min() >= 1


def test_cutout_is_pillows_rectangle():
    random = np.random.RandomState(3)
    side, centre = random.uniform(0.1, 6, 50).astype(np.float32), random.uniform(0, 12, (50, 2)).astype(np.float32)
    source = np.broadcast_to(images((20, 27, 3))[0, :12, :12], (50, 12, 12, 3))
    found = ra.cutout(jnp.asarray(source), jnp.asarray(side), jnp.asarray(centre))
    for i in range(50):
        image = Image.fromarray(source[i])
        y, x = (int(max(0.0, c - side[i] / 2)) for c in centre[i])
        box = (x, y, min(12, x + side[i]), min(12, y + side[i]))
        ImageDraw.Draw(image).rectangle(box, ra.CUTOUT_GREY)
        np.testing.assert_array_equal(found[i], np.asarray(image))


def test_the_strengths_of_trivialaugment_are_torchvisions_wide_list():
    table = ra.wide_strengths()
    assert table.shape == (2, 31, len(ra.OPS))
    share = np.linspace(0, 1, 31)
    expected = {
        "ShearX": 0.99 * share,
        "TranslateY": np.trunc(32 * share),
        "Rotate": 135 * share,
        "Brightness": 1 + 0.99 * share,
        "Posterize": 8 - np.round(np.arange(31) / 5),
        "Solarize": 255 * (1 - share),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[0, :, ra.OPS.index(name)], values, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(table[1, :, ra.OPS.index("Color")], 1 - 0.99 * share, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table[1, :, ra.OPS.index("TranslateX")], -np.trunc(32 * share))
    for name in ("Posterize", "Solarize", "Identity"):
        np.testing.assert_array_equal(table[0, :, ra.OPS.index(name)], table[1, :, ra.OPS.index(name)])


def test_trivialaugment_applies_one_operation_of_the_list_and_draws_all_of_them():
    image = np.random.RandomState(3).randint(0, 256, (16, 16, 3)).astype(np.uint8)
    count, table = 3000, ra.wide_strengths()
    strengths = np.stack([table[sign, level, op] for op in range(14) for sign in (0, 1) for level in range(31)])
    ops = np.repeat(np.arange(14), 62).astype(np.int32)
    every = np.asarray(apply(np.broadcast_to(image, (len(ops), *image.shape)), ops, strengths))
    possible = {}
    for op, result in zip(ops, every, strict=True):
        possible.setdefault(result.tobytes(), set()).add(op)
    keys = jax.random.split(jax.random.key(1), count)
    found = np.asarray(jax.jit(ra.trivialaugment)(np.broadcast_to(image, (count, *image.shape)), keys))
    drawn = [possible[each.tobytes()] for each in found]
    shares = [sum(kinds == {op} for kinds in drawn) / count for op in range(14)]
    for name in ("ShearX", "Rotate", "Brightness", "Sharpness", "Solarize"):
        assert abs(shares[ra.OPS.index(name)] - 1 / 14) < 0.02
