import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import distiller
from distiller.dkd import decoupled_rows
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 5)) * 3
LABEL = np.array([0, 4, 2, 2, 1, 3], np.int32)
rows_of = jax.jit(decoupled_rows)


def kl(t, s):
    return np.sum(t * (np.log(t) - np.log(s)), axis=1)


def reference(student, teacher, label, temperature):
    """The paper's equations 2 to 7, with probabilities."""
    s, t = (softmax(z / temperature, axis=1) for z in (student, teacher))
    mask = np.arange(s.shape[1]) == label[:, None]
    binary = [np.stack([p[mask], 1 - p[mask]], axis=1) for p in (s, t)]
    others = [p[~mask].reshape(len(p), -1) for p in (s, t)]
    others = [p / p.sum(1, keepdims=True) for p in others]
    return temperature**2 * kl(binary[1], binary[0]), temperature**2 * kl(others[1], others[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20))
def test_both_divergences_are_the_papers(seed, temperature):
    student, teacher = np.random.RandomState(seed).standard_normal((2, 6, 5)) * 3
    found = rows_of(jnp.float32(student), jnp.float32(teacher), LABEL, temperature)
    for one, expected in zip(found, reference(student, teacher, LABEL, temperature), strict=True):
        # A divergence of nearly equal distributions is a difference of float32 logarithms, times T^2.
        np.testing.assert_allclose(one, expected, rtol=2e-3, atol=1e-5 + 3e-7 * temperature**2)
        assert (np.asarray(one) > -1e-5 - 3e-7 * temperature**2).all()


def test_with_the_teachers_doubt_as_weight_the_two_are_the_whole_divergence():
    """Equation 8: KD = TCKD + (1 - t_y) NCKD."""
    s, t = softmax(S, axis=1), softmax(T, axis=1)
    target, others = rows_of(jnp.float32(S), jnp.float32(T), LABEL)
    doubt = 1 - t[np.arange(6), LABEL]
    np.testing.assert_allclose(target + doubt * others, kl(t, s), rtol=1e-4)


def test_a_constant_added_to_the_logits_is_not_seen():
    for one, other in zip(
        rows_of(jnp.float32(S), jnp.float32(T), LABEL), rows_of(S + 5.0, T - 3.0, LABEL), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_certain_networks_give_finite_numbers_and_leave_the_label_out():
    """Where the reference subtracts 1000 from the label's logit, a logit of 1e4 would still win."""
    student, teacher = jnp.array([[1e4, 3.0, 1.0]]), jnp.array([[-1e4, 0.0, 2.0]])
    label = jnp.array([0])
    target, others = decoupled_rows(student, teacher, label)
    np.testing.assert_allclose(target, 1e4 - np.log(np.exp(3) + np.exp(1)), rtol=1e-6)  # -log(1 - s_y)
    np.testing.assert_allclose(others, kl(softmax([[0.0, 2.0]], axis=1), softmax([[3.0, 1.0]], axis=1)), rtol=1e-5)
    gradient = jax.grad(lambda z: sum(x.sum() for x in decoupled_rows(z, teacher, label)))(student)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_the_method_weights_ramps_and_averages(batch):
    student, teacher = Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {})
    batch = batch.replace(label=jnp.asarray(LABEL), epoch=jnp.float32(4.5))
    method = distiller.create("DKD", alpha=0.5, beta=3.0, temperature=2.0, warmup_epochs=10, weight=1.5)
    loss, terms = method.apply({}, student, teacher, batch)
    target, others = reference(S, T, LABEL, 2.0)
    np.testing.assert_allclose(terms["DKD_target"], 1.5 * 0.5 * 0.5 * target.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, 1.5 * 0.5 * (0.5 * target.mean() + 3 * others.mean()), rtol=1e-5)
    after, _ = method.apply({}, student, teacher, batch.replace(epoch=jnp.float32(30)))
    np.testing.assert_allclose(after, 2 * loss, rtol=1e-6)


def test_the_option_standardises_both_networks(batch):
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in (S, T)]
    batch = batch.replace(label=jnp.asarray(LABEL))
    method = distiller.create("DKD", standardize=True, temperature=2.0, warmup_epochs=0)
    found, _ = method.apply({}, Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {}), batch)
    target, others = reference(*z, LABEL, 2.0)
    np.testing.assert_allclose(found, target.mean() + 8 * others.mean(), rtol=1e-5)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(6, 4\)"):
        decoupled_rows(jnp.zeros((6, 5)), jnp.zeros((6, 4)), LABEL)
