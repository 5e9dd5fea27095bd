import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import distiller
from distiller.dist import pearson, relation_losses
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 5)) * 2
correlation = jax.jit(pearson)


def reference(student, teacher, temperature):
    s, t = (softmax(z / temperature, axis=1) for z in (student, teacher))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    return temperature**2 * rows, temperature**2 * columns


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_relations_are_numpys_correlations(temperature):
    with jax.enable_x64(True):
        found = relation_losses(jnp.asarray(S), jnp.asarray(T), temperature)
    np.testing.assert_allclose(found, reference(S, T, temperature), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 30), st.floats(-5, 5))
def test_a_correlation_sees_neither_scale_nor_shift(seed, scale, shift):
    a, b = np.random.RandomState(seed).standard_normal((2, 4, 7))
    expected = correlation(jnp.float32(a), jnp.float32(b))
    np.testing.assert_allclose(correlation(jnp.float32(scale * a + shift), jnp.float32(b)), expected, atol=2e-4)
    np.testing.assert_allclose(correlation(jnp.float32(-scale * a), jnp.float32(b)), -expected, atol=2e-4)
    assert (np.abs(expected) <= 1 + 1e-6).all()


@pytest.mark.slow
def test_a_constant_row_has_no_correlation_and_a_finite_gradient():
    rows = jnp.stack([jnp.full(5, 2.0), jnp.arange(5.0)])
    np.testing.assert_allclose(pearson(rows, rows), [0, 1], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: pearson(x, rows).sum())(rows)).all()


def test_the_loss_is_near_zero_where_student_equals_teacher_and_least_there(batch):
    method = distiller.create("DIST")
    equal, _ = method.apply({}, Outputs(jnp.float32(T), {}), Outputs(jnp.float32(T), {}), batch)
    apart, _ = method.apply({}, Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {}), batch)
    assert abs(equal) < 1e-4 * apart
    expected = reference(S, T, 4.0)
    np.testing.assert_allclose(apart, 2 * sum(expected), rtol=1e-4)


def test_each_relation_has_its_weight(batch):
    method = distiller.create("DIST", beta=0.5, gamma=3.0, weight=1.0, temperature=1.0)
    _, terms = method.apply({}, Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {}), batch)
    inter, intra = reference(S, T, 1.0)
    np.testing.assert_allclose(terms["DIST_inter"], 0.5 * inter, rtol=1e-4)
    np.testing.assert_allclose(terms["DIST_intra"], 3.0 * intra, rtol=1e-4)


@pytest.mark.slow
def test_of_two_classes_the_columns_still_teach():
    s, t = jnp.float32(S[:, :2]), jnp.float32(T[:, :2])
    rows = jax.grad(lambda z: relation_losses(z, t, 1.0)[0])(s)
    columns = jax.grad(lambda z: relation_losses(z, t, 1.0)[1])(s)
    np.testing.assert_allclose(rows, 0, atol=1e-5)
    assert np.abs(columns).max() > 1e-2
