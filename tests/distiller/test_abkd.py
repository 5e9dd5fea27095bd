"""ABKD: the edges are limits, the special cases are what their names say, and equal networks have no loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distiller.abkd import SPECIAL, alpha_beta_rows, jensen_shannon_rows

RANDOM = np.random.RandomState(0)
T, S = (np.asarray(jax.nn.log_softmax(RANDOM.standard_normal((4, 7)))) for _ in range(2))


def rows(alpha, beta, t=T, s=S):
    with jax.enable_x64(True):
        return np.asarray(alpha_beta_rows(jnp.asarray(t, jnp.float64), jnp.asarray(s, jnp.float64), alpha, beta))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7), (1.0, 0.0), (0.4, -0.4)])
def test_an_edge_is_the_limit_of_the_formula(alpha, beta):
    np.testing.assert_allclose(rows(alpha, beta), rows(alpha + 1e-4, beta + 1e-4), rtol=2e-3)


def test_the_special_cases_are_what_their_names_say():
    t, s = np.exp(T), np.exp(S)
    np.testing.assert_allclose(rows(*SPECIAL["kl"]), np.sum(t * (T - S), 1), rtol=1e-5)
    np.testing.assert_allclose(rows(*SPECIAL["reverse-kl"]), np.sum(s * (S - T), 1), rtol=1e-5)
    np.testing.assert_allclose(rows(*SPECIAL["hellinger"]), 2 * np.sum((t**0.5 - s**0.5) ** 2, 1), rtol=1e-5)
    middle = np.log((t + s) / 2)
    expected = np.sum(t * (T - middle) + s * (S - middle), 1) / 2
    np.testing.assert_allclose(jensen_shannon_rows(T, S), expected, rtol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)])
def test_equal_networks_have_no_loss(alpha, beta):
    np.testing.assert_allclose(alpha_beta_rows(T, T, alpha, beta), 0, atol=2e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_networks_that_are_sure_of_different_classes_have_a_finite_loss_and_gradient(alpha, beta):
    t, s = (jnp.asarray(row)[None] * 1e5 for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))

    def loss(z):
        return alpha_beta_rows(jax.nn.log_softmax(t), jax.nn.log_softmax(z), alpha, beta)[0]

    value, gradient = jax.value_and_grad(loss)(s)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
