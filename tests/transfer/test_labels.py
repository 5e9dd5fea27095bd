import jax
import jax.numpy as jnp
import optax
import pytest

import transfer


@pytest.fixture(scope="module")
def labels(player):
    strategy = transfer.create("Labels", student=player("student"), optimizer=optax.sgd(0.1))
    return strategy, jax.jit(strategy.init), jax.jit(strategy.step)


def test_there_is_no_teacher_and_no_method(labels, batch):
    state = labels[1](jax.random.key(0), batch)
    assert set(state.params) == set(state.extra) == {"student"}
    assert state.frozen == {}
    variables = labels[0].student_variables(state)
    assert set(variables) == {"params", "batch_stats"}


def test_a_step_learns_from_the_labels_alone(labels, batch):
    _, init, step = labels
    state = init(jax.random.key(0), batch)
    losses = []
    for _ in range(100):
        state, metrics = step(state, batch, jax.random.key(1))
        assert set(metrics) == {"loss", "cross_entropy", "correct", "labelled", "gradient_norm"}
        assert metrics["loss"] == metrics["cross_entropy"]
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 100
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["correct"] > 0.8


def test_unlabelled_batches_move_the_statistics_and_no_weight(labels, batch, same):
    _, init, step = labels
    state = init(jax.random.key(0), batch)
    new, _ = step(state, batch.replace(label=jnp.full(6, -1, jnp.int32)), jax.random.key(1))
    assert same(new.params, state.params)
    assert not same(new.extra, state.extra)
