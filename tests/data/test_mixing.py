import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import Augmentation
from data.mixing import cutmix_weights, mix, mixing_weights

HEIGHT, WIDTH = 9, 12
weights = jax.jit(mixing_weights, static_argnames=("how", "height", "width"))
HOWS = [Augmentation(mixup=1.0), Augmentation(mixup=0.3), Augmentation(cutmix=1.0), Augmentation(mixup=0.3, cutmix=1.0)]


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def drawn(how, count=4000):
    weight, share = weights(keys(count), how, HEIGHT, WIDTH)
    assert weight.shape == (count, HEIGHT, WIDTH, 1)
    assert weight.dtype == share.dtype == jnp.float32
    return np.asarray(weight), np.asarray(share)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_share_is_the_mean_weight_and_at_least_a_half(how):
    weight, share = drawn(how)
    np.testing.assert_allclose(weight.mean((1, 2, 3)), share, atol=1e-5)
    assert share.min() >= 0.5
    assert share.max() <= 1.0


def test_nothing_is_mixed_unless_asked_for():
    assert mixing_weights(keys(3), Augmentation(), HEIGHT, WIDTH) == (None, None)


def largest_gap(found, expected):
    """Kolmogorov and Smirnov's distance of two samples."""
    places = np.sort(np.concatenate([found, expected]))
    below = [np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (found, expected)]
    return np.abs(below[0] - below[1]).max()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixups_share_is_the_larger_part_of_a_beta_draw(alpha):
    draw = np.random.RandomState(0).beta(alpha, alpha, 20000)
    _, share = drawn(Augmentation(mixup=alpha))
    assert largest_gap(share, np.maximum(draw, 1 - draw)) < 0.035  # 1.5e-4 of such samples are further apart
    other = np.random.RandomState(1).beta(2 * alpha, 2 * alpha, len(share))
    assert largest_gap(share, np.maximum(other, 1 - other)) > 0.05


def test_mix_is_numpys():
    random = np.random.RandomState(0)
    image, weight = random.rand(5, 4, 3, 2).astype(np.float32), random.rand(5, 4, 3, 1).astype(np.float32)
    found = jax.jit(mix)(image, weight)
    for row in range(5):
        expected = weight[row] * image[row] + (1 - weight[row]) * image[row - 1]
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def paper_box(draw, row, column):
    """CutMix's rand_bbox: (own pixels as a mask, share of the own image), which may be below a half."""
    cut = np.sqrt(1 - draw)
    half_h, half_w = int(HEIGHT * cut) // 2, int(WIDTH * cut) // 2
    own = np.ones((HEIGHT, WIDTH), np.float32)
    own[max(row - half_h, 0) : min(row + half_h, HEIGHT), max(column - half_w, 0) : min(column + half_w, WIDTH)] = 0
    return own, own.mean()


def test_cutmix_pastes_the_papers_box_or_what_is_around_it():
    random = np.random.RandomState(1)
    draw = random.rand(300).astype(np.float32)
    centres = np.stack([random.randint(0, HEIGHT, 300), random.randint(0, WIDTH, 300)], axis=1).astype(np.int32)
    weight, share = jax.jit(cutmix_weights, static_argnums=(2, 3))(draw, centres, HEIGHT, WIDTH)
    exchanged = 0
    for i in range(300):
        own, part = paper_box(draw[i], *centres[i])
        if part < 0.5:
            own, part, exchanged = 1 - own, 1 - part, exchanged + 1
        np.testing.assert_array_equal(weight[i], own)
        assert share[i] == pytest.approx(part, abs=1e-6)
    assert 20 < exchanged < 200


def test_cutmix_draws_as_the_paper_does():
    _, share = drawn(Augmentation(cutmix=1.0))
    random = np.random.RandomState(2)
    found = [paper_box(random.rand(), random.randint(HEIGHT), random.randint(WIDTH))[1] for _ in range(20000)]
    theirs = np.maximum(found, 1 - np.asarray(found))
    assert largest_gap(np.round(share, 4), np.round(theirs, 4)) < 0.035  # few shares are possible: no rounding apart


def test_with_both_each_row_is_one_of_the_two_and_both_occur():
    weight, _ = drawn(HOWS[-1])
    constant = (weight == weight[:, :1, :1]).all((1, 2, 3))
    boxed = ((weight == 0) | (weight == 1)).all((1, 2, 3))
    assert (constant | boxed).all()
    assert 0.45 < (constant & ~boxed).mean() < 0.55


def test_a_share_depends_on_its_own_key_alone():
    others = keys(4000, seed=1).at[10:13].set(keys(4000)[10:13])
    for how in HOWS:
        whole, share = drawn(how)
        part, own = weights(others, how, HEIGHT, WIDTH)
        np.testing.assert_array_equal(part[10:13], whole[10:13])
        np.testing.assert_array_equal(own[10:13], share[10:13])
        assert (np.asarray(own) != share).mean() > 0.5
