"""Batch norms that take the statistics of groups of rows: each group is as a batch of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import transfer
from distiller.connectors import BatchNorm
from models.layers import batch_norm_groups
from registry import UserError
from training.devices import Devices
from transfer.averaging import averaged
from transfer.grouping import grouped

KEY = jax.random.key(3)
GROUPS = 3


def part(tree, number, rows=2):
    """The consecutive rows of one of three groups of a batch of six."""
    return jax.tree.map(lambda x: x[number * rows : (number + 1) * rows] if x.ndim else x, tree)


def with_groups(strategy):
    fields = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy)}
    return grouped(type(strategy), GROUPS)(**fields)


def assert_near(found, expected, atol=1e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def test_groups_are_equal_parts_of_the_devices():
    devices = Devices((jax.devices()[0],) * 6)
    assert [devices.groups(chips) for chips in (0, 1, 2, 6)] == [1, 6, 3, 1]
    with pytest.raises(UserError, match=r"--batch_norm_chips 4 does not divide the 6 devices\.\nChoose a divisor"):
        devices.groups(4)


@pytest.mark.parametrize("name", ["Offline", "Mutual"])
def test_an_update_is_the_mean_of_the_updates_of_all_groups(name, build):
    """Plain SGD, so that new parameters are linear in the gradient; running statistics are means, too."""
    run = build(name)
    one = jax.jit(run.strategy.step)
    parts = [one(run.state, part(run.batch, number), KEY)[0] for number in range(GROUPS)]
    found, metrics = jax.jit(with_groups(run.strategy).step)(run.state, run.batch, KEY)
    assert_near(
        (found.params, found.extra), jax.tree.map(lambda *x: sum(x) / GROUPS, *[(p.params, p.extra) for p in parts])
    )
    assert set(metrics) == set(run.metrics)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found.extra, run.after.extra)
    assert max(jax.tree.leaves(moved)) > 1e-4  # the whole batch's statistics are others


def test_gradients_at_taps_and_connectors_are_those_of_each_group(small, batch):
    def look(images):
        outputs, _ = models.forward(small.model, small.variables, images, train=True, gradient_taps=("stage1",))
        joined = BatchNorm().apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, outputs.features["stage1"])
        return outputs.gradients(jnp.sin(outputs.logits))["stage1"], outputs.logits, joined

    parts = [jax.jit(look)(part(batch.image, number)) for number in range(GROUPS)]
    with batch_norm_groups(GROUPS):
        found = jax.jit(look)(batch.image)
    assert_near(found, jax.tree.map(lambda *x: jnp.concatenate(x), *parts), atol=5e-5)
    whole = jax.jit(look)(batch.image)  # outside of the context, with the same shapes
    assert np.abs(whole[2] - found[2]).max() > 1e-2


def test_evaluation_and_rows_of_other_numbers_do_not_change(small, batch):
    with batch_norm_groups(4):
        np.testing.assert_array_equal(
            small.evaluate(small.variables, batch.image).logits,
            models.forward(small.model, small.variables, batch.image)[0].logits,
        )
        with pytest.raises(TypeError, match="reshape"):  # six rows in four groups
            models.forward(small.model, small.variables, batch.image, train=True)


@pytest.mark.parametrize("name", transfer.names())
def test_every_strategy_takes_groups_and_keeps_its_state(name, build):
    """With the average on top; on shapes."""
    run = build(name)
    strategy = averaged(type(with_groups(run.strategy)), 0.5)(**vars(run.strategy))
    state = jax.eval_shape(strategy.init, KEY, run.batch)
    after, metrics = jax.eval_shape(strategy.step, state, run.batch, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert set(metrics) == set(run.metrics)
