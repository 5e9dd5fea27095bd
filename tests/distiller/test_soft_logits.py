import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import distiller
from distiller.soft_logits import kl_divergence, standardize
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 7, 5)) * 3
kl = jax.jit(kl_divergence)


def reference(student, teacher, temperature):
    log_s, log_t = log_softmax(student / temperature, axis=1), log_softmax(teacher / temperature, axis=1)
    return temperature**2 * np.mean(np.sum(np.exp(log_t) * (log_t - log_s), axis=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20))
def test_it_is_scipys_and_never_negative(seed, temperature):
    student, teacher = np.random.RandomState(seed).standard_normal((2, 7, 5)) * 3
    found = kl(jnp.float32(student), jnp.float32(teacher), temperature)
    np.testing.assert_allclose(found, reference(student, teacher, temperature), rtol=1e-3, atol=1e-6)
    assert found >= 0


def test_it_does_not_see_a_constant_added_to_the_logits():
    shifted = kl(jnp.float32(S + 5), jnp.float32(T - 7))
    np.testing.assert_allclose(shifted, kl(jnp.float32(S), jnp.float32(T)), rtol=1e-5)


def test_at_high_temperature_it_is_half_the_squared_difference_of_the_centred_logits():
    """Hinton et al., section 2.1: the limit is matching logits, so T^2 is in and gradients keep their size."""
    with jax.enable_x64(True):
        found = kl_divergence(jnp.asarray(S), jnp.asarray(T), 1e4)
    difference = (S - S.mean(1, keepdims=True)) - (T - T.mean(1, keepdims=True))
    np.testing.assert_allclose(found, np.mean(np.sum(difference**2, axis=1)) / (2 * 5), rtol=1e-3)


def test_its_gradient_is_the_difference_of_the_probabilities():
    temperature = 4.0
    found = jax.grad(kl_divergence)(jnp.float32(S), jnp.float32(T), temperature)
    softmax = [np.exp(log_softmax(x / temperature, axis=1)) for x in (S, T)]
    np.testing.assert_allclose(found, temperature * (softmax[0] - softmax[1]) / 7, rtol=1e-4, atol=1e-6)


def test_certain_networks_give_finite_numbers():
    student, teacher = jnp.array([[1e4, 0.0, -1e4]]), jnp.array([[-1e4, 0.0, 1e4]])
    value, gradient = jax.value_and_grad(kl_divergence)(student, teacher)
    np.testing.assert_allclose(value, 2e4)
    assert np.isfinite(gradient).all()


def test_float64_stays_float64():
    with jax.enable_x64(True):
        found = kl_divergence(jnp.asarray(S), jnp.asarray(T), 4.0)
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, reference(S, T, 4.0), rtol=1e-12)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(7, 5\).*\(7, 6\)"):
        kl_divergence(jnp.zeros((7, 5)), jnp.zeros((7, 6)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(-20, 20))
def test_standardising_takes_mean_and_scale_out(seed, scale, shift):
    logits = np.random.RandomState(seed).standard_normal((7, 5))
    expected = (logits - logits.mean(1, keepdims=True)) / (logits.std(1, ddof=1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(standardize(jnp.float32(logits)), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(standardize(jnp.float32(scale * logits + shift)), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_standardised_constants_are_zero_with_a_finite_gradient():
    assert not np.any(standardize(jnp.full((2, 4), 3.0)))
    gradient = jax.grad(lambda x: jnp.sum(standardize(x)[:, 0]))(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()


def test_the_option_standardises_both_networks(batch):
    student, teacher = Outputs(jnp.float32(S), {}), Outputs(jnp.float32(T), {})
    method = distiller.create("SoftLogits", standardize=True, temperature=2.0, weight=9.0)
    found, _ = method.apply({}, student, teacher, batch)
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in (S, T)]
    np.testing.assert_allclose(found, 9 * reference(*z, 2.0), rtol=1e-5)


def test_a_temperature_a_row_is_each_rows_own():
    temperatures = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    found = kl_divergence(jnp.float32(S), jnp.float32(T), jnp.float32(temperatures)[:, None])
    expected = np.mean([reference(S[i : i + 1], T[i : i + 1], t) for i, t in enumerate(temperatures)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("standardize", [False, True])
def test_hard_labels_are_the_teachers_classes(standardize, batch):
    method = distiller.create("SoftLogits", hard=True, weight=1.0, standardize=standardize, temperature=7.0)
    student = S[:6].astype(np.float32)
    loss, _ = method.apply({}, Outputs(student, {}), Outputs(T[:6].astype(np.float32), {}), batch)
    if standardize:
        student = (student - student.mean(1, keepdims=True)) / student.std(1, ddof=1, keepdims=True)
    expected = -np.mean(log_softmax(student, axis=1)[np.arange(6), T[:6].argmax(1)])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
