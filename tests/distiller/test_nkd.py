import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import distiller
from distiller.nkd import other_rows, target_rows
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 5)) * 3
LABEL = np.array([0, 4, 2, 2, 1, 3], np.int32)


def reference(student, teacher, label, temperature):
    rows = np.arange(len(label))
    target = -softmax(teacher, axis=1)[rows, label] * log_softmax(student, axis=1)[rows, label]
    mask = np.arange(student.shape[1]) != label[:, None]
    s, t = (z[mask].reshape(len(z), -1) / temperature for z in (student, teacher))
    return target, -(temperature**2) * np.sum(softmax(t, axis=1) * log_softmax(s, axis=1), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_terms_are_the_papers(temperature, batch):
    target, others = reference(S, T, LABEL, temperature)
    method = distiller.create("NKD", temperature=temperature, gamma=1.5, weight=2.0)
    batch = batch.replace(label=jnp.asarray(LABEL))
    loss, terms = method.apply({}, Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {}), batch)
    np.testing.assert_allclose(terms["NKD_target"], 2 * target.mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["NKD_others"], 3 * others.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, 2 * target.mean() + 3 * others.mean(), rtol=1e-5)


@pytest.mark.slow
def test_the_second_term_is_least_where_the_others_are_the_teachers():
    """Whatever the label's logit is: the rest is normalised without it."""
    student = jnp.float32(T).at[np.arange(6), LABEL].add(7.0)
    value, gradient = jax.value_and_grad(lambda z: other_rows(z, jnp.float32(T), LABEL, 3.0).sum())(student)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    assert value < other_rows(jnp.float32(S), jnp.float32(T), LABEL, 3.0).sum()


def test_a_constant_added_to_the_logits_is_not_seen():
    for rows in (target_rows, other_rows):
        shifted = rows(jnp.float32(S + 4), jnp.float32(T - 9), LABEL)
        np.testing.assert_allclose(shifted, rows(jnp.float32(S), jnp.float32(T), LABEL), rtol=1e-4)
