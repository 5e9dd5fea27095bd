import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import transfer
from transfer.base import label_loss

LOGITS = np.random.RandomState(0).standard_normal((7, 4)).astype(np.float32) * 3
LABEL = np.array([0, 3, 2, 1, 1, 0, 2], np.int32)


def test_label_loss_is_the_mean_negative_log_likelihood():
    loss, counts = label_loss(jnp.asarray(LOGITS), jnp.asarray(LABEL))
    np.testing.assert_allclose(loss, -log_softmax(LOGITS, axis=1)[np.arange(7), LABEL].mean(), rtol=1e-5)
    np.testing.assert_allclose(counts["correct"], (LOGITS.argmax(1) == LABEL).mean(), rtol=1e-6)
    assert counts["labelled"] == 1


@pytest.mark.parametrize("labelled", [[2], [0, 3, 6], [0, 1, 2, 3, 4, 5]])
def test_withheld_labels_count_for_nothing(labelled):
    label = np.full(7, -1, np.int32)
    label[labelled] = LABEL[labelled]
    loss, counts = label_loss(jnp.asarray(LOGITS), jnp.asarray(label))
    alone = -log_softmax(LOGITS, axis=1)[labelled, LABEL[labelled]].mean()
    np.testing.assert_allclose(loss, alone, rtol=1e-5)
    np.testing.assert_allclose(counts["labelled"], len(labelled) / 7, rtol=1e-6)
    right = (LOGITS.argmax(1) == LABEL)[labelled].sum()
    np.testing.assert_allclose(counts["correct"], right / 7, rtol=1e-6)
    gradient = jax.grad(lambda x: label_loss(x, jnp.asarray(label))[0])(jnp.asarray(LOGITS))
    assert set(np.flatnonzero(np.abs(gradient).sum(1))) == set(labelled)


def test_without_any_label_loss_and_gradient_are_zero():
    def loss(logits):
        return label_loss(logits, jnp.full(7, -1, jnp.int32))[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


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
