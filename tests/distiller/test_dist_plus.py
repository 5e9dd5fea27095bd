"""DIST+: the four relations, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.dist import relation_losses
from distiller.dist_plus import channel_correlation, correlation, logit_losses, spatial_correlation
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 5, 3, 3, 4))
LOGITS = [jnp.asarray(np.random.RandomState(i).standard_normal((5, 7)), jnp.float32) for i in (1, 2)]


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.slow
def test_the_relations_are_numpys():
    channels = np.mean([pearson(S[i], T[i]) for i in np.ndindex(5, 3, 3)])
    images = np.mean([pearson(S.sum(3)[:, h, w], T.sum(3)[:, h, w]) for h, w in np.ndindex(3, 3)])
    np.testing.assert_allclose(channel_correlation(S, T), channels, rtol=1e-4)
    np.testing.assert_allclose(spatial_correlation(S, T), images, rtol=1e-4)


@pytest.mark.slow
def test_the_relations_of_the_classes_are_those_of_dist():
    np.testing.assert_allclose(logit_losses(*LOGITS, 4.0), relation_losses(*LOGITS, 4.0), rtol=1e-3)


@pytest.mark.slow
def test_a_constant_is_uncorrelated_with_a_finite_gradient():
    flat = jnp.ones((2, 4))
    value, gradient = jax.value_and_grad(lambda x: correlation(x, flat + jnp.arange(4.0), 1).sum())(flat)
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("channels", [4, 6])
def test_a_student_that_correlates_more_has_a_smaller_loss(channels, batch):
    """The reference's sign makes the channels' correlation small; the method's makes it large."""
    teacher = Outputs(LOGITS[1], {"stage1": jnp.asarray(T, jnp.float32)})
    student = Outputs(LOGITS[0], {"stage1": jnp.asarray(np.resize(S, (5, 3, 3, channels)), jnp.float32)})
    method = distiller.create("DISTPlus", weight=1.0)
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    assert bool(variables) == (channels != 4)  # a convolution where the channels differ
    _, terms = method.apply(variables, student, teacher, batch)
    if channels == 4:
        equal = method.apply({}, teacher, teacher, batch)[1]
        assert all(abs(value) < 1e-5 for value in equal.values())
        np.testing.assert_allclose(terms["DISTPlus_channel"], 1 - channel_correlation(S, T), rtol=1e-5)
    assert all(value > 0.1 for value in terms.values())
