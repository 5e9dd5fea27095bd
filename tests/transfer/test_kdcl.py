"""KDCL: the three ensembles against their definitions, two steps by hand on linear networks, views of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import transfer
from registry import UserError
from transfer.kdcl import ENSEMBLES, ensemble, linear_weights

KEY = jax.random.key(3)
RATE = 0.3


def by_definition(kind, z, y):
    """The ensemble's logits [B, K] in float64 from [n, B, K] and labels [B]."""
    rows = np.arange(len(y))
    if kind == "naive":
        entropy = -log_softmax(z, axis=-1)[:, rows, y]
        return z[entropy.argmin(0), rows]
    if kind == "minlogit":
        return (z - z[:, rows, y][..., None]).min(0)

    def entropy(weights):
        return -log_softmax(np.einsum("n,nbk->bk", softmax(weights), z), axis=-1)[rows, y].mean()

    starts = (np.zeros(len(z)), *2 * np.eye(len(z)))
    best = min((minimize(entropy, start) for start in starts), key=lambda found: found.fun)
    return np.einsum("n,nbk->bk", softmax(best.x), z)


@pytest.mark.parametrize("kind", ENSEMBLES)
@pytest.mark.parametrize("count", [2, 3])
def test_ensembles_are_those_of_the_paper(kind, count, batch):
    z = 3 * np.random.RandomState(count).standard_normal((count, 6, 10))
    found = ensemble(kind, jnp.asarray(z, jnp.float32), batch)
    expected = by_definition(kind, z, np.asarray(batch.label))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.1 if kind == "linear" else 1e-4)


@pytest.mark.parametrize("scale", [0.5, 4.0, 15.0])
@pytest.mark.parametrize("count", [2, 4])
def test_the_linear_weights_are_nearly_the_best(count, scale):
    random = np.random.RandomState(count)
    y = random.randint(10, size=32)
    z = scale * random.standard_normal((count, 32, 10))
    z[:, np.arange(32), y] += scale * random.uniform(size=(count, 1))
    label = jnp.asarray(y, jnp.int32)
    batch = transfer.base.Batch(jnp.zeros((32, 1, 1, 1)), label, label, jnp.float32(0))
    weights = np.asarray(linear_weights(jnp.asarray(z, jnp.float32), batch), np.float64)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)

    def entropy(logits):
        return -log_softmax(logits, axis=-1)[np.arange(32), y].mean()

    best, found = entropy(by_definition("linear", z, y)), entropy(np.einsum("n,nbk->bk", weights, z))
    assert best * (1 - 1e-6) <= found <= best * 1.002


@pytest.mark.parametrize("kind", ["naive", "minlogit"])
def test_rows_without_a_label_get_the_mean(kind, batch):
    z = jnp.asarray(np.random.RandomState(0).standard_normal((3, 6, 10)), jnp.float32)
    found = ensemble(kind, z, batch.replace(label=batch.label.at[1].set(-1)))
    np.testing.assert_allclose(found[1], z[:, 1].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2:], ensemble(kind, z, batch)[2:], rtol=1e-6)


@pytest.mark.parametrize("kind", ["naive", "minlogit"])
def test_two_steps_are_those_of_the_equations(kind, linear, batch):
    strategy = transfer.create(
        "KDCL",
        student=linear("student"),
        peers=(linear("peer1"),),
        ensemble=kind,
        weight=0.8,
        optimizer=optax.sgd(RATE),
    )
    assert strategy.views == ("weak", "weak")
    batch = batch.replace(views=(1 - batch.image,))
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    label, names = np.asarray(batch.label), ("student", "peer1")
    y = np.eye(10)[label]
    x = {"student": np.asarray(batch.image, np.float64).reshape(6, -1)}
    x["peer1"] = 1 - x["student"]
    w = {n: np.asarray(state.params[n]["linear"]["kernel"], np.float64) for n in names}
    b = {n: np.asarray(state.params[n]["linear"]["bias"], np.float64) for n in names}
    for _ in range(2):
        z = {n: x[n] @ w[n] + b[n] for n in names}
        t, expected = by_definition(kind, np.stack([z[n] for n in names]), label), {}
        for n in names:
            start = "" if n == "student" else f"{n}/"
            expected[f"{start}cross_entropy"] = -np.mean(np.sum(y * log_softmax(z[n], axis=1), axis=1))
            logs, own = log_softmax(t / 2, axis=1), log_softmax(z[n] / 2, axis=1)
            expected[f"{start}KDCL"] = 0.8 * 4 * np.mean(np.sum(np.exp(logs) * (logs - own), axis=1))
            slope = (softmax(z[n], axis=1) - y + 0.8 * 2 * (np.exp(own) - np.exp(logs))) / 6
            w[n], b[n] = w[n] - RATE * x[n].T @ slope, b[n] - RATE * slope.sum(0)
        state, metrics = step(state, batch, KEY)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6)
        for n in names:
            np.testing.assert_allclose(state.params[n]["linear"]["kernel"], w[n], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(state.params[n]["linear"]["bias"], b[n], rtol=1e-3, atol=1e-5)


def test_without_views_of_their_own_all_see_the_same(linear, batch):
    strategy = transfer.create(
        "KDCL", student=linear("student"), peers=(linear("peer1"),), own_views=False, optimizer=optax.sgd(RATE)
    )
    assert strategy.views == ("weak",)
    state = jax.jit(strategy.init)(KEY, batch)
    assert jax.jit(strategy.step)(state, batch, KEY)[1]["KDCL"] > 0


def test_mistakes_are_told(linear):
    with pytest.raises(UserError, match=r"'naive', 'linear' or 'minlogit' \(default 'naive'\); got 'best'"):
        transfer.create("KDCL", student=linear("student"), peers=(linear("a"),), ensemble="best", optimizer=None)
