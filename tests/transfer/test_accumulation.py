"""A batch that goes through the networks in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import distiller
import transfer
from distiller.dot import distillation_oriented_trainer
from transfer.accumulation import accumulated, part_of
from transfer.averaging import averaged

KEY = jax.random.key(3)
NAMES = [name for name in transfer.names() if name != "DLB"]


def test_parts_are_every_kth_row_with_a_key_of_their_own(batch):
    batch = batch.replace(key=KEY, views=(1 - batch.image,), second_label=batch.label + 1)
    parts = [part_of(batch, number, 3) for number in range(3)]
    assert [part.index.tolist() for part in parts] == [[0, 3], [1, 4], [2, 5]]
    assert [part.second_label.tolist() for part in parts] == [[1, 4], [2, 5], [3, 6]]
    np.testing.assert_array_equal(parts[1].views[0], 1 - batch.image[1::3])
    assert parts[0].epoch == batch.epoch
    keys = [jax.random.key_data(part.key).tolist() for part in parts]
    assert len({*map(tuple, keys)}) == 3


def pair(linear, optimizer, count=3, **more):
    """The same strategy on whole batches and on parts; a network without batch norm, a mean over examples."""
    method = distiller.create("SoftLogits", temperature=2.0)
    fields = {"student": linear("student"), "teacher": linear("teacher"), "method": method, "optimizer": optimizer}
    image = jnp.zeros((1, 8, 8, 1))
    fields |= {"teacher_variables": linear("teacher").init(jax.random.key(9), image), **more}
    return [transfer.kind("Offline", parts)(**fields) for parts in (1, count)]


OPTIMIZERS = {
    "sgd": (lambda: optax.sgd(0.1, 0.9), {}),
    "dot": (lambda: distillation_oriented_trainer(0.1, delta=0.05), {"split_gradients": True}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_the_whole_batchs(name, linear, batch):
    make, more = OPTIMIZERS[name]
    results = []
    for strategy in pair(linear, make(), **more):
        state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
        for _ in range(3):
            state, metrics = step(state, batch, KEY)
        results.append((state.params, state.opt_state, metrics))
        assert int(state.step) == 3
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_where_labels_are_withheld_the_label_loss_is_the_mean_of_the_parts(linear, batch):
    whole, parts = pair(linear, optax.sgd(0.1))
    batch = batch.replace(label=batch.label.at[3:].set(-1).at[2].set(-1))  # parts have 1, 1 and 0 labels
    state = jax.jit(whole.init)(KEY, batch)
    (_, one), (_, several) = (jax.jit(each.step)(state, batch, KEY) for each in (whole, parts))
    np.testing.assert_allclose(several["cross_entropy"], one["cross_entropy"] * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(several["labelled"], one["labelled"], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_takes_parts_and_keeps_its_state(name, build):
    """With the average on top; on shapes."""
    run = build(name)
    fields = {f.name: getattr(run.strategy, f.name) for f in dataclasses.fields(run.strategy)}
    strategy = averaged(accumulated(type(run.strategy), 2), 0.5)(**fields)
    state = jax.eval_shape(strategy.init, KEY, run.batch)
    after, metrics = jax.eval_shape(strategy.step, state, run.batch, KEY)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]
    assert set(metrics) == set(run.metrics)


def test_statistics_and_memories_go_on_from_part_to_part(build):
    """PSKD remembers every example's prediction, whichever part the example is in; batch statistics move twice."""
    run = build("PSKD")
    fields = {f.name: getattr(run.strategy, f.name) for f in dataclasses.fields(run.strategy)}
    strategy = accumulated(type(run.strategy), 2)(**fields)
    after, _ = jax.jit(strategy.step)(run.state, run.batch, KEY)
    assert (np.asarray(after.extra["method"]["past"]) > 0).all()
    once = jax.tree.leaves(run.after.extra["student"]["batch_stats"])
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(after.extra["student"]), once, strict=True)]
    assert min(moved) > 1e-4
