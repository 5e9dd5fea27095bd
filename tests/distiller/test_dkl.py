"""IKL and GKL: the weighted variance is the sum over pairs, and the class prior is the mean of the epoch before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
from distiller.dkl import pair_difference_rows
from models import Outputs

RANDOM = np.random.RandomState(0)


def test_the_weighted_variance_is_the_sum_over_pairs():
    s, t = RANDOM.standard_normal((2, 4, 5)).astype(np.float32)
    w = RANDOM.uniform(size=(4, 5)).astype(np.float32)
    d = (t[:, :, None] - t[:, None]) - (s[:, :, None] - s[:, None])
    expected = np.sum(w[:, :, None] * w[:, None] * d**2, axis=(1, 2))
    np.testing.assert_allclose(pair_difference_rows(s, t, w), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_class_prior_is_the_mean_of_the_epoch_before():
    method = distiller.create("IKL", class_prior=True, alpha=0.0, weight_temperature=2.0, warmup_epochs=0)
    student, *teachers = RANDOM.standard_normal((4, 6, 3)).astype(np.float32)
    label = jnp.array([0, 0, 1, 1, 0, -1])  # class 2 never comes

    def step(variables, teacher, epoch, label=label):
        batch = data.Batch(jnp.zeros((6, 1)), label, jnp.arange(6), jnp.float32(epoch))
        players = Outputs(jnp.asarray(student), {}), Outputs(jnp.asarray(teacher), {})
        if variables is None:
            return method.init(jax.random.key(0), *players, batch)
        (loss, _), memory = method.apply(variables, *players, batch, mutable=["memory"])
        return loss, memory

    variables = step(None, teachers[0], 0.0)
    own = jax.nn.softmax(teachers[2] / 2)
    means = np.stack(
        [jax.nn.softmax(np.concatenate([t[label == k] for t in teachers[:2]]) / 2).mean(0) for k in (0, 1)]
    )
    for teacher, epoch in zip(teachers[:2], (0.0, 0.5), strict=True):
        _, variables = step(variables, teacher, epoch)
    later = jnp.array([0, 1, 1, 2, 0, -1])
    loss, variables = step(variables, teachers[2], 1.0, later)
    weights = np.where(np.isin(later, (0, 1))[:, None], means[np.clip(later, 0, 1)], own)
    expected = np.mean(pair_difference_rows(student, teachers[2], weights))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    loss, _ = step(variables, teachers[2], 1.5, later)  # the prior stays for the epoch
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
