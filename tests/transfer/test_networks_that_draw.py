"""Strategies on networks with dropout: each pass in training gets a key."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.errors import InvalidRngError

import transfer

KEY = jax.random.key(3)


@pytest.mark.parametrize("name", transfer.names())
def test_every_strategy_trains_a_network_that_draws(name, cast, dropping):
    """On shapes: a pass without random numbers raises."""
    strategy, batch = cast(name, dropping)
    state = jax.eval_shape(strategy.init, KEY, batch.replace(key=KEY))
    jax.eval_shape(strategy.step, state, batch.replace(key=KEY), KEY)
    with pytest.raises(InvalidRngError):
        jax.eval_shape(strategy.step, state, batch, KEY)


def test_the_trunk_of_branches_drops_the_same_in_each(cast, dropping):
    """Branches whose variables are the student's give its answer, so they drew the same."""
    strategy, batch = cast("ONE", dropping)
    branches = strategy._branches
    params, extra = jax.jit(branches.init)(KEY, batch.image)
    params |= {name: _taken(params["student"], params[name]) for name in branches.names[1:]}
    look = jax.jit(lambda key: branches.look(params, extra, (batch.image,), batch.replace(key=key))[0])
    outputs, others = look(KEY), look(jax.random.key(4))
    for name in branches.names[1:]:
        np.testing.assert_allclose(outputs[name].logits, outputs["student"].logits, rtol=1e-5, atol=1e-5)
    assert np.abs(others["student"].logits - outputs["student"].logits).max() > 1e-3


def _taken(source: dict, like: dict) -> dict:
    """The part of `source` that has the structure of `like`."""
    return {key: _taken(source[key], own) if isinstance(own, dict) else source[key] for key, own in like.items()}


def test_a_mean_teacher_in_train_mode_draws_for_itself(cast, dropping):
    """With decay 0 and no ramp the teacher has the student's weights: only what both draw differs."""
    strategy, batch = cast("EMA", dropping)
    strategy = dataclasses.replace(strategy, decay=0.0, ramp=False, train_mode=True)
    state = jax.jit(strategy.init)(KEY, batch.replace(key=KEY))
    terms = jax.jit(strategy.losses)(state.params, state, batch.replace(key=KEY), KEY)[0]
    assert terms["SoftLogits"] > 1e-4
