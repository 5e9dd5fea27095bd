"""Mutual: peers learn from each other, both ways; followed by hand on linear networks."""

import jax
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

import distiller
import transfer
from registry import UserError

KEY = jax.random.key(3)
RATE = 0.3


def mutual(student, *peers, method=None, **options):
    name, its_options = transfer.registry.get("Mutual").default_method if method is None else (method, {})
    return transfer.create(
        "Mutual",
        student=student,
        peers=peers,
        method=distiller.create(name, **its_options),
        optimizer=optax.sgd(RATE),
        **options,
    )


@pytest.mark.parametrize("count", [2, 3])
def test_two_steps_are_those_of_the_papers_equations(count, linear, batch):
    names = ["student", "peer1", "peer2"][:count]
    strategy = mutual(*map(linear, names), weight=0.7)
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    x, y = np.asarray(batch.image, np.float64).reshape(6, -1), np.eye(10)[np.asarray(batch.label)]
    w = {n: np.asarray(state.params[n]["linear"]["kernel"], np.float64) for n in names}
    b = {n: np.asarray(state.params[n]["linear"]["bias"], np.float64) for n in names}
    for _ in range(2):
        logs = {n: log_softmax(x @ w[n] + b[n], axis=1) for n in names}
        p, expected = {n: np.exp(value) for n, value in logs.items()}, {}
        for k in names:
            start = "" if k == "student" else f"{k}/"
            others = [n for n in names if n != k]
            divergences = [np.mean(np.sum(p[n] * (logs[n] - logs[k]), axis=1)) for n in others]
            expected[f"{start}cross_entropy"] = -np.mean(np.sum(y * logs[k], axis=1))
            expected[f"{start}SoftLogits"] = 0.7 * np.mean(divergences)
            slope = (p[k] - y + 0.7 * np.mean([p[k] - p[n] for n in others], axis=0)) / 6
            w[k], b[k] = w[k] - RATE * x.T @ slope, b[k] - RATE * slope.sum(0)
        state, metrics = step(state, batch, KEY)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=5e-5)
        np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=5e-5)
        for n in names:
            np.testing.assert_allclose(state.params[n]["linear"]["kernel"], w[n], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(state.params[n]["linear"]["bias"], b[n], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_with_weight_zero_all_train_as_if_alone(staged, batch):
    strategy = mutual(staged("student"), staged("peer1"), weight=0.0)
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    alone = transfer.create("Labels", student=staged("student"), optimizer=optax.sgd(RATE))
    first, its_step = jax.jit(alone.init)(KEY, batch), jax.jit(alone.step)
    own = [
        first.replace(params={"student": state.params[n]}, extra={"student": state.extra[n]})
        for n in ("student", "peer1")
    ]
    for _ in range(2):
        state, metrics = step(state, batch, KEY)
        own = [its_step(s, batch, KEY)[0] for s in own]
    assert metrics["SoftLogits"] == metrics["peer1/SoftLogits"] == 0
    for name, expected in zip(("student", "peer1"), own, strict=True):
        ours = (state.params[name], state.extra[name])
        theirs = (expected.params["student"], expected.extra["student"])
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_each_ordered_pair_has_connectors_and_memory_of_its_own(staged, player, batch, same):
    strategy = mutual(staged("student"), player("peer1"), method="CRD")
    batch = batch.replace(examples=6)
    state = jax.jit(strategy.init)(KEY, batch)
    pairs = {"student_from_peer1", "peer1_from_student"}
    assert set(state.params["method"]) == set(state.extra["method"]) == pairs
    one, other = (state.extra["method"][pair] for pair in sorted(pairs))
    assert not same(one, other)
    after, metrics = jax.jit(strategy.step)(state, batch, KEY)
    assert metrics["CRD_student"] > 0 < metrics["peer1/CRD_student"]
    for pair in pairs:
        assert not same(state.params["method"][pair], after.params["method"][pair])
        assert not same(state.extra["method"][pair], after.extra["method"][pair])


def test_mistakes_are_told(linear):
    with pytest.raises(UserError, match="names of their own"):
        mutual(linear("student"))
    with pytest.raises(UserError, match="names of their own"):
        mutual(linear("student"), linear("a"), linear("a"))
    with pytest.raises(UserError, match="AB learns from its teacher"):
        mutual(linear("student"), linear("peer1"), method="AB")


def test_the_ensemble_is_the_mean_of_the_probabilities(linear):
    logits = {n: np.random.RandomState(i).standard_normal((5, 4)).astype(np.float32) for i, n in enumerate("ab")}
    found = mutual(linear("student"), linear("peer1")).ensembles({"student": logits["a"], "peer1": logits["b"]})
    expected = (softmax(logits["a"], axis=1) + softmax(logits["b"], axis=1)) / 2
    np.testing.assert_allclose(np.exp(found["ensemble"]), expected, rtol=1e-5)
