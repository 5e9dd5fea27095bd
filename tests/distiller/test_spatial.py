import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distiller
from distiller.spatial import adaptive_average_pool, as_map, match_resolution, stage_pairs
from registry import UserError
from studies import methods_table


def pooled(x, height, width):
    """PyTorch's rule, cell by cell."""
    result = np.empty((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            rows = slice(math.floor(i * x.shape[1] / height), math.ceil((i + 1) * x.shape[1] / height))
            columns = slice(math.floor(j * x.shape[2] / width), math.ceil((j + 1) * x.shape[2] / width))
            result[:, i, j] = x[:, rows, columns].mean((1, 2))
    return result


@pytest.mark.slow
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
    assert stage_pairs(numbered(student, suffix), numbered(teacher, suffix), suffix=suffix) == pairs


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [
        ("2:3", [(2, 3)]),
        ("1:1,3:2", [(1, 1), (3, 2)]),
        ("last:last", [(3, 4)]),
        ("1:last,last:1", [(1, 4), (3, 1)]),
    ],
)
@pytest.mark.parametrize("suffix", ["", "_preact"])
def test_a_choice_names_the_pairs(choice, pairs, suffix):
    assert stage_pairs(numbered(3, suffix), numbered(4, suffix), choice, suffix) == pairs


def test_a_stage_that_a_network_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"stages='1:5' names the teacher's stage 5; the teacher has stages 1 to 4\."):
        stage_pairs(numbered(3), numbered(4), "1:5")


@pytest.mark.parametrize("choice", ["1", "0:1", "1:1,", "1-1", "last", "1:2 ,2:3", "p7-p3", "p3-q7"])
@pytest.mark.parametrize("name", ["AT", "SP", "FT"])
def test_a_choice_of_another_form_raises(name, choice):
    with pytest.raises(UserError, match=r"'stages' must name .* STUDENT:TEACHER of stages or taps, such as"):
        distiller.create(name, stages=choice)


@pytest.fixture(scope="module")
def shapes():
    return methods_table.answers()


READERS = [name for name in distiller.names() if "stages" in distiller.registry.get(name).__dataclass_fields__]


@pytest.mark.parametrize("name", READERS)
def test_a_method_reads_the_stages_that_it_is_given(name, shapes):
    """By a trace; FT, VkD and WKDFeature compare one pair, IRG two, and FSP and KDSVD at least two."""
    limit = distiller.registry.get(name).__dataclass_fields__["stages"].metadata["limit"]
    choice = "1:2,2:3" if limit.holds("1:2,2:3") else "1:2"
    found = methods_table.facts(distiller.create(name, stages=choice), *shapes)
    numbers = [{int(tap[5]) for tap in taps if tap.startswith("stage")} for taps in (found.student, found.teacher)]
    assert numbers == ([{1, 2}, {2, 3}] if "," in choice else [{1}, {2}])


def levels(*names):
    return {name: jnp.full((1, 2, 2, 1), float(number)) for number, name in enumerate(names)}


def test_taps_are_named_singly_in_pairs_and_as_a_range():
    student, teacher = levels("p3", "p4", "p5"), levels("p3", "p4", "p5")

    def chosen(choice):
        return [(float(s[0, 0, 0, 0]), float(t[0, 0, 0, 0])) for s, t in stage_pairs(student, teacher, choice)]

    assert chosen("p3-p5") == [(0, 0), (1, 1), (2, 2)]
    assert chosen("p4") == [(1, 1)]
    assert chosen("p3:p4,p5") == [(0, 1), (2, 2)]
    with pytest.raises(ValueError, match=r"stages='p3-p6' names the student's tap p6; the student has"):
        chosen("p3-p6")


@pytest.mark.parametrize("name", READERS)
def test_taps_is_another_word_for_stages(name):
    choice = (
        "p3-p7"
        if distiller.registry.get(name).__dataclass_fields__["stages"].metadata["limit"].holds("p3-p7")
        else "p3"
    )
    assert distiller.create(name, taps=choice) == distiller.create(name, stages=choice)


def test_a_network_without_stages_is_named():
    with pytest.raises(ValueError, match=r"student has no taps stage1_preact.*'stage1'"):
        stage_pairs(numbered(3), numbered(3), suffix="_preact")
    with pytest.raises(ValueError, match=r"teacher has no taps stage1 .*logits only"):
        stage_pairs(numbered(3), {})


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tokens_are_the_map_of_their_patches_without_those_in_front(extra):
    patches = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
    tokens = jnp.concatenate([jnp.full((2, extra, 3), -1.0), jnp.asarray(patches)], axis=1)
    np.testing.assert_array_equal(as_map(tokens), patches.reshape(2, 4, 4, 3))
    here, there = match_resolution(tokens, jnp.zeros((2, 2, 2, 5)))
    assert (here.shape, there.shape) == ((2, 2, 2, 3), (2, 2, 2, 5))
