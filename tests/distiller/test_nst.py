import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distiller.nst import squared_mmd

mmd = jax.jit(squared_mmd)


def maps(seed, channels, side=4, batch=3):
    return np.random.RandomState(seed).standard_normal((batch, side, side, channels)).astype(np.float32)


def reference(student, teacher):
    """The paper's double sums over neurons, one image and one pair of channels after the other."""

    def kernel(xs, ys):
        return np.mean([[np.dot(x / np.linalg.norm(x), y / np.linalg.norm(y)) ** 2 for x in xs] for y in ys])

    total = 0.0
    for s, t in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        s, t = s.reshape(-1, s.shape[-1]).T, t.reshape(-1, t.shape[-1]).T
        total += kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)
    return total / len(student)


@pytest.mark.parametrize(("channels", "other"), [(3, 5), (5, 3), (20, 4), (4, 20), (16, 17), (15, 15)])
def test_either_way_over_channels_or_positions_it_is_the_double_sum(channels, other):
    """4x4 maps have 16 positions: above that many channels the sums are turned around."""
    student, teacher = maps(0, channels), maps(1, other)
    np.testing.assert_allclose(mmd(student, teacher), reference(student, teacher), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([5, 30]), st.floats(0.01, 100))
def test_it_sees_neither_scale_nor_order_of_the_channels_and_is_at_least_zero(seed, channels, scale):
    random = np.random.RandomState(seed)
    student, teacher = maps(seed, channels), maps(seed + 1, channels)
    scales = (scale * random.uniform(0.5, 2, channels)).astype(np.float32)
    moved = (student * scales)[..., random.permutation(channels)]
    np.testing.assert_allclose(mmd(moved, teacher), mmd(student, teacher), rtol=1e-3)
    np.testing.assert_allclose(mmd(moved, student), 0, atol=1e-6)
    assert mmd(student, teacher) > 1e-3


def test_a_channel_counted_twice_changes_nothing():
    """It is the distribution of the maps that is compared, not their number."""
    student, teacher = maps(0, 4), maps(1, 5)
    np.testing.assert_allclose(mmd(np.concatenate([student] * 6, -1), teacher), mmd(student, teacher), rtol=1e-4)


def test_the_larger_map_is_pooled():
    student, teacher = maps(0, 4, side=8), maps(1, 5)
    pooled = student.reshape(3, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(mmd(student, teacher), reference(pooled, teacher), rtol=1e-4)
