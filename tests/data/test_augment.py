import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import Augmentation
from data.augment import augment, crop_and_flip

view = jax.jit(augment, static_argnames="how")
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
    found = view(jnp.asarray(np.repeat(image, count, axis=0)), keys(count), how)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    views = [np.round(np.asarray(each) * 255).astype(np.uint8)[None].tobytes() for each in found]
    shares = {each: views.count(each) / count for each in set(views)}
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
