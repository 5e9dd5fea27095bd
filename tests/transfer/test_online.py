"""Online: the teacher learns from labels alone, in the same step; followed by hand on linear networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

import distiller
import transfer
from registry import UserError
from transfer.base import STUDENT
from transfer.offline import Offline

KEY = jax.random.key(3)
RATE = 0.3


def online(student, teacher, method="SoftLogits", optimizer=None, **options):
    return transfer.create(
        "Online",
        student=student,
        peers=(teacher,),
        method=distiller.create(method),
        optimizer=optimizer or optax.sgd(RATE),
        **options,
    )


def weights(tree):
    return [np.asarray(tree["linear"][name], np.float64) for name in ("kernel", "bias")]


def test_two_steps_are_those_of_the_equations(linear, batch):
    strategy = online(linear("student"), linear("teacher"))
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    x, y = np.asarray(batch.image, np.float64).reshape(6, -1), np.eye(10)[np.asarray(batch.label)]
    (ws, bs), (wt, bt) = weights(state.params["student"]), weights(state.params["teacher"])
    for _ in range(2):
        zs, zt = x @ ws + bs, x @ wt + bt
        soft, softer = log_softmax(zt / 4, axis=1), log_softmax(zs / 4, axis=1)
        terms = {
            "cross_entropy": -0.1 * np.mean(np.sum(y * log_softmax(zs, axis=1), axis=1)),
            "SoftLogits": 0.9 * 16 * np.mean(np.sum(np.exp(soft) * (soft - softer), axis=1)),
            "teacher/cross_entropy": -np.mean(np.sum(y * log_softmax(zt, axis=1), axis=1)),
        }
        gs = (0.1 * (softmax(zs, axis=1) - y) + 0.9 * 4 * (np.exp(softer) - np.exp(soft))) / 6
        gt = (softmax(zt, axis=1) - y) / 6
        ws, bs, wt, bt = ws - RATE * x.T @ gs, bs - RATE * gs.sum(0), wt - RATE * x.T @ gt, bt - RATE * gt.sum(0)
        state, metrics = step(state, batch, KEY)
        for name, value in terms.items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-5)
        np.testing.assert_allclose(metrics["loss"], sum(terms.values()), rtol=2e-5)
        for name, expected in (("student", (ws, bs)), ("teacher", (wt, bt))):
            for found, value in zip(weights(state.params[name]), expected, strict=True):
                np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_teacher_learns_as_it_would_alone(staged, batch):
    strategy = online(staged("student"), staged("teacher"), "SoftLogits+AT")
    alone = transfer.create("Labels", student=staged("student"), optimizer=optax.sgd(RATE))
    state = jax.jit(strategy.init)(KEY, batch)
    own = jax.jit(alone.init)(KEY, batch)
    own = own.replace(params={"student": state.params["teacher"]}, extra={"student": state.extra["teacher"]})
    steps = jax.jit(strategy.step), jax.jit(alone.step)
    for _ in range(2):
        (state, _), (own, _) = (step(s, batch, KEY) for step, s in zip(steps, (state, own), strict=True))
    for name, there in (("params", own.params), ("extra", own.extra)):
        found = getattr(state, name)["teacher"]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(there["student"]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class TrainModeOffline(Offline):
    """Offline whose teacher answers in train mode."""

    def _lessons(self, frozen, batch):
        return {"teacher": self._taught(self.teacher, frozen["teacher"], batch, train=True)}


@pytest.mark.slow
def test_at_rate_zero_it_is_offline_with_a_teacher_in_train_mode(staged, batch, same):
    variables = jax.jit(staged("teacher").init)(jax.random.key(5), batch.image)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(RATE, 0.9))
    options = {"teacher_variables": variables, "teacher_learning_rate": 0.0}
    strategy = online(staged("student"), staged("teacher"), "SoftLogits+AT", optimizer, **options)
    method = distiller.create("SoftLogits+AT")
    parts = {"student": staged("student"), "method": method, "optimizer": optimizer}
    still = TrainModeOffline(**parts, teacher=staged("teacher"), teacher_variables=variables)
    states = [jax.jit(s.init)(KEY, batch) for s in (strategy, still)]
    assert same(states[0].params["student"], states[1].params["student"])
    steps = jax.jit(strategy.step), jax.jit(still.step)
    for _ in range(2):
        states = [step(state, batch, KEY)[0] for step, state in zip(steps, states, strict=True)]
    assert same(states[0].params["teacher"], variables["params"])
    assert not same(states[0].extra["teacher"]["batch_stats"], variables["batch_stats"])
    trees = [(s.params["student"], s.extra["student"]) for s in states]
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_student_starts_as_under_every_other_strategy(staged, batch, same):
    state = jax.jit(online(staged("student"), staged("teacher")).init)(KEY, batch)
    alone = jax.jit(lambda key: staged("student").init(jax.random.fold_in(key, STUDENT), batch.image))(KEY)
    assert same(state.params["student"], alone["params"])
    assert not same(state.params["student"], state.params["teacher"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["FitNet", "CRD", "MLKD", "SDD"])
def test_connectors_memories_views_and_heads_work(method, staged, batch, same):
    strategy = online(staged("student"), staged("teacher"), method)
    assert strategy.views == strategy.method.views
    batch = batch.replace(views=(1 - batch.image,) * (len(strategy.views) - 1), examples=6)
    state = jax.jit(strategy.init)(KEY, batch)
    after, metrics = jax.jit(strategy.step)(state, batch, KEY)
    assert np.isfinite(metrics["loss"])
    assert sum(value for name, value in metrics.items() if name.startswith(method)) > 0
    if jax.tree.leaves(state.params["method"]):
        assert not same(state.params["method"], after.params["method"])


@pytest.mark.slow
def test_a_first_phase_needs_a_teacher_that_is_trained(staged, batch, same):
    with pytest.raises(UserError, match="AB learns from its teacher for 30 epochs"):
        online(staged("student"), staged("teacher"), "AB")
    variables = jax.jit(staged("teacher").init)(jax.random.key(5), batch.image)
    strategy = online(staged("student"), staged("teacher"), "AB", teacher_variables=variables)
    state = jax.jit(strategy.init)(KEY, batch)
    after, metrics = jax.jit(strategy.step)(state, batch, KEY)
    assert metrics["teacher/cross_entropy"] == metrics["cross_entropy"] == 0
    assert same(after.params["teacher"], state.params["teacher"])
    later, metrics = jax.jit(strategy.step)(state, batch.replace(epoch=jnp.float32(31)), KEY)
    assert metrics["teacher/cross_entropy"] > 0
    assert not same(later.params["teacher"], state.params["teacher"])


def test_mistakes_are_told(linear):
    with pytest.raises(UserError, match="one teacher; got 2"):
        transfer.create("Online", student=linear("student"), peers=(linear("a"), linear("b")), optimizer=None)
    with pytest.raises(UserError, match="teacher_learning_rate"):
        online(linear("student"), linear("teacher"), teacher_learning_rate=-1.0)
    with pytest.raises(UserError, match="a number"):
        transfer.check("Online", {"teacher_learning_rate": "fast"})
