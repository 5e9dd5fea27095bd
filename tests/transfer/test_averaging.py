"""The moving average that is tested and kept in the place of the student's weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import transfer
from transfer.averaging import AVERAGE, averaged

KEY = jax.random.key(3)
NAMES = [name for name in transfer.names() if name != "BornAgain"]


def with_average(run, decay: float = 0.9):
    """The strategy of `run` (the fixture `build`), averaged."""
    fields = {f.name: getattr(run.strategy, f.name) for f in dataclasses.fields(run.strategy)}
    return averaged(type(run.strategy), decay)(**fields)


def test_it_is_the_mean_by_hand_from_the_first_weights_on(linear, batch):
    kind = transfer.kind("Labels", decay=0.15)
    strategy = kind(student=linear("student"), optimizer=optax.sgd(0.1))
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    expected = jax.device_get(state.params["student"])
    for t in range(1, 5):
        state, _ = step(state, batch, KEY)
        decay = min(0.15, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda a, w, d=decay: d * a + (1 - d) * w, expected, state.params["student"])
    found = strategy.student_variables(state)["params"]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_a_decay_the_class_is_the_strategys_own():
    assert transfer.kind("Labels") is transfer.registry.get("Labels")
    assert transfer.kind("Labels", decay=0.5) is transfer.kind("Labels", decay=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_learns_as_without_and_shows_the_average(name, build):
    """On shapes; one strategy computes."""
    run = build(name)
    strategy = with_average(run)
    state = jax.eval_shape(strategy.init, KEY, run.batch)
    after, metrics = jax.eval_shape(strategy.step, state, run.batch, KEY)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]
    assert set(metrics) == set(run.metrics)
    assert strategy.student_variables(after) is after.extra[AVERAGE]
    learners = strategy.learners(after)
    assert list(learners) == list(run.strategy.learners(run.after))
    assert learners["student"] == (run.strategy.student, after.extra[AVERAGE])
    jax.eval_shape(strategy.shares, after, run.batch, KEY)


@pytest.mark.parametrize("name", ["Offline", "EMA"])
def test_it_teaches_nobody(name, build, same):
    """EMA reads the student's variables in its own step: there they are the weights that learn."""
    run = build(name)
    strategy = with_average(run)
    state = jax.jit(strategy.init)(jax.random.key(0), run.batch)
    after, metrics = jax.jit(strategy.step)(state, run.batch, jax.random.key(1))
    extra = {name: value for name, value in after.extra.items() if name != AVERAGE}
    close = [(after.params, run.after.params), (extra, run.after.extra), (metrics, run.metrics)]
    for ours, theirs in close:
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    first = jax.tree.map(jnp.asarray, run.strategy.student_variables(run.state))
    assert same(strategy.student_variables(state), first)
