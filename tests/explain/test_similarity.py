"""Similarities against their definitions and SciPy's, and intervals against the t test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from explain import faithfulness, similarity

RANDOM = np.random.RandomState(0)
FIRST, SECOND = RANDOM.standard_normal((2, 9, 8, 8))
TIED = np.maximum(RANDOM.randint(-3, 4, (2, 9, 8, 8)), 0).astype(float)


@pytest.mark.parametrize("name", similarity.MEASURES)
def test_equal_maps_have_1_and_the_order_of_the_two_does_not_matter(name):
    measure = similarity.MEASURES[name]
    for maps in (FIRST, TIED[0], np.zeros((2, 8, 8)), np.full((2, 5, 5), 0.1)):
        np.testing.assert_allclose(measure(maps, maps), 1)
    np.testing.assert_allclose(measure(FIRST, SECOND), measure(SECOND, FIRST))
    assert (np.abs(measure(FIRST, SECOND)) < 0.9).all()
    one = np.zeros((9, 8, 8))
    assert np.isfinite(measure(FIRST, one)).all()


@pytest.mark.parametrize("name", similarity.MEASURES)
def test_scale_does_not_matter(name):
    measure = similarity.MEASURES[name]
    np.testing.assert_allclose(measure(FIRST, 7 * SECOND), measure(FIRST, SECOND))


def test_spearman_is_scipys():
    for a, b in ((FIRST, SECOND), TIED):
        expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(similarity.spearman(a, b), expected)


def test_a_constant_map_correlates_with_nothing_but_another():
    flat = np.full((9, 8, 8), 2.0)
    assert (similarity.spearman(FIRST, flat) == 0).all()
    assert (similarity.cosine(FIRST, 0 * flat) == 0).all()
    assert (similarity.spearman(3 * flat, flat) == 1).all()


def test_cosine_is_its_definition():
    expected = [
        x.ravel() @ y.ravel() / np.sqrt((x**2).sum() * (y**2).sum()) for x, y in zip(FIRST, SECOND, strict=True)
    ]
    np.testing.assert_allclose(similarity.cosine(FIRST, SECOND), expected)


def direct_ssim(a, b):
    """Window by window, from the paper's equations."""
    a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
    high, wide = (min(11, n - 1 + n % 2) for n in a.shape)
    weight = np.outer(*(np.exp(-((np.arange(n) - n // 2) ** 2) / 4.5) for n in (high, wide)))
    weight /= weight.sum()
    found = []
    for i in range(a.shape[0] - high + 1):
        for j in range(a.shape[1] - wide + 1):
            x, y = a[i : i + high, j : j + wide], b[i : i + high, j : j + wide]
            mx, my = (weight * x).sum(), (weight * y).sum()
            vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
            c = (weight * (x - mx) * (y - my)).sum()
            found.append((2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(8, 8), (15, 13), (7, 12)])
def test_ssim_is_the_papers_window_by_window(shape):
    a, b = RANDOM.standard_normal((2, 3, *shape))
    expected = [direct_ssim(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(similarity.ssim(a, b), expected)


def test_top_overlap_counts_what_is_in_both():
    a, b = np.arange(10.0).reshape(1, 2, 5), np.arange(10.0).reshape(1, 2, 5)
    b[0, 1, 4] = -1  # the largest of a is the least of b
    assert similarity.top_overlap(a, b, 0.2) == 0.5  # {8, 9} and {7, 8}
    assert similarity.top_overlap(a, -a, 0.5) == 0
    assert similarity.top_overlap(a, -a, 1.0) == 1


def test_ties_for_the_last_places_share_them():
    a = np.zeros((1, 2, 5))
    a[0, 0, 0] = 1
    b = np.zeros((1, 2, 5))
    b[0, 0, 1] = 1  # of two places one is taken, nine pixels share the other
    assert similarity.top_overlap(a, b, 0.2)[0] == pytest.approx((2 / 9 + 8 / 9) / 2)
    with pytest.raises(ValueError, match="got 0"):
        similarity.top_overlap(a, b, 0)


@pytest.mark.parametrize("name", similarity.MEASURES)
def test_maps_of_two_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"\(9, 8, 8\) and \(1, 8, 8\)"):
        similarity.MEASURES[name](FIRST, FIRST[:1])


def test_one_run_has_the_interval_of_the_paired_t_test_over_images():
    a, b = RANDOM.uniform(size=(2, 1, 30))
    found = similarity.paired_interval(a, b)
    expected = stats.ttest_rel(a[0], b[0]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found["mean"] == pytest.approx((a - b).mean())
    assert found["over"] == "images"


def test_several_runs_have_the_interval_over_runs():
    a, b = RANDOM.uniform(size=(2, 4, 30))
    found = similarity.paired_interval(a, b)
    expected = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1)).confidence_interval(0.95)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found["over"] == "runs"


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((1, 1), (1, 1))])
def test_what_cannot_be_paired_is_refused(shapes):
    with pytest.raises(ValueError, match="Pairs need"):
        similarity.paired_interval(*map(np.zeros, shapes))


@given(st.integers(0, 2**31 - 1))
def test_intervals_turn_round_with_the_pair(seed):
    a, b = np.random.RandomState(seed).uniform(size=(2, 1, 6))
    there, back = similarity.paired_interval(a, b), similarity.paired_interval(b, a)
    assert there["low"] == pytest.approx(-back["high"])
    assert there["low"] <= there["mean"] <= there["high"]


def test_similarity_is_1_to_oneself_and_a_student_like_the_teacher_is_found_out(trained, stand_ins):
    teacher, images = trained.subject, trained.images[:12]
    noise = np.random.RandomState(0)

    def disturbed(size):
        head = trained.subject.variables["params"]["classifier"]
        moved = {k: v + size * noise.standard_normal(v.shape).astype(v.dtype) for k, v in head.items()}
        params = {**teacher.variables["params"], "classifier": moved}
        return teacher.replaced({**teacher.variables, "params": params})

    near = faithfulness.teacher_similarity(teacher, [teacher, disturbed(0.05)], stand_ins.input_gradient, images)
    others = [disturbed(3.0), disturbed(3.0)]
    far = faithfulness.teacher_similarity(teacher, others, stand_ins.input_gradient, images)
    assert set(near) == set(similarity.MEASURES)
    for name, values in near.items():
        assert values.shape == (2, 12)
        np.testing.assert_allclose(values[0], 1, atol=1e-6)
        assert values[1].mean() > far[name].mean(axis=1).max()
    compared = faithfulness.compare(near, far)
    assert all(row["mean"] > 0 and row["over"] == "runs" for row in compared.values())
