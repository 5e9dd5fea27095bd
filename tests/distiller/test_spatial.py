import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distiller.spatial import adaptive_average_pool, as_map, match_resolution, stage_pairs


def pooled(x, height, width):
    """PyTorch's rule, cell by cell."""
    result = np.empty((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            rows = slice(math.floor(i * x.shape[1] / height), math.ceil((i + 1) * x.shape[1] / height))
            columns = slice(math.floor(j * x.shape[2] / width), math.ceil((j + 1) * x.shape[2] / width))
            result[:, i, j] = x[:, rows, columns].mean((1, 2))
    return result


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_pooling_follows_the_rule_for_any_two_sizes(h, w, height, width):
    x = np.random.RandomState(0).standard_normal((2, h, w, 3)).astype(np.float32)
    np.testing.assert_allclose(adaptive_average_pool(x, height, width), pooled(x, height, width), atol=1e-6)


def test_pooling_is_pytorchs():
    """torch.nn.functional.adaptive_avg_pool2d(torch.arange(35.0).reshape(1, 1, 7, 5), (3, 2)), torch 2.13."""
    x = jnp.arange(35.0).reshape(1, 7, 5, 1)
    expected = [[6.0, 8.0], [16.0, 18.0], [26.0, 28.0]]
    np.testing.assert_allclose(adaptive_average_pool(x, 3, 2)[0, :, :, 0], expected, rtol=1e-6)


def test_pooling_keeps_the_compute_type():
    assert adaptive_average_pool(jnp.ones((1, 8, 8, 2), jnp.bfloat16), 4, 4).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((8, 4), (4, 8), (4, 4)), ((7, 7), (3, 7), (3, 7))],
)
def test_the_larger_map_meets_the_smaller_on_each_axis(a, b, size):
    one, other = match_resolution(jnp.ones((2, *a, 3)), 2.0 * jnp.ones((2, *b, 5)))
    assert one.shape == (2, *size, 3)
    assert other.shape == (2, *size, 5)
    np.testing.assert_allclose(one, 1.0, rtol=1e-6)
    np.testing.assert_allclose(other, 2.0, rtol=1e-6)


def test_equal_maps_are_left_alone():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    one, other = match_resolution(x, x)
    assert one is x
    assert other is x


def numbered(count, suffix=""):
    return {f"stage{i}{suffix}": i for i in range(1, count + 1)} | {"stem": 0, "embedding": 99}


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 3, [(1, 1), (2, 2), (3, 3)]),
        (3, 4, [(1, 1), (2, 2), (3, 4)]),
        (4, 3, [(1, 1), (2, 2), (4, 3)]),
        (3, 5, [(1, 1), (2, 3), (3, 5)]),
        (1, 4, [(1, 4)]),
        (12, 12, [(i, i) for i in range(1, 13)]),
    ],
)
@pytest.mark.parametrize("suffix", ["", "_preact"])
def test_stages_pair_in_depth_order_and_the_last_meets_the_last(student, teacher, pairs, suffix):
    assert stage_pairs(numbered(student, suffix), numbered(teacher, suffix), suffix) == pairs


def test_a_network_without_stages_is_named():
    with pytest.raises(ValueError, match=r"student has no taps stage1_preact.*'stage1'"):
        stage_pairs(numbered(3), numbered(3), "_preact")
    with pytest.raises(ValueError, match=r"teacher has no taps stage1 .*logits only"):
        stage_pairs(numbered(3), {})


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tokens_are_the_map_of_their_patches_without_those_in_front(extra):
    patches = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
    tokens = jnp.concatenate([jnp.full((2, extra, 3), -1.0), jnp.asarray(patches)], axis=1)
    np.testing.assert_array_equal(as_map(tokens), patches.reshape(2, 4, 4, 3))
    here, there = match_resolution(tokens, jnp.zeros((2, 2, 2, 5)))
    assert (here.shape, there.shape) == ((2, 2, 2, 3), (2, 2, 2, 5))
