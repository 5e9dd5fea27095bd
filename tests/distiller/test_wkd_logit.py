import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import log_softmax, softmax

import distiller
from distiller.wkd_logit import class_costs, classifier_rows, transport_rows, wasserstein_rows
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 5)) * 3
LABEL = np.array([0, 4, 2, 2, 1, 3], np.int32)
ROWS = np.random.RandomState(1).standard_normal((5, 7))


def teacher_outputs(logits=T, rows=ROWS, bias=3.0):
    head = jax.tree_util.Partial(lambda w, x: x @ w.T + bias, jnp.float32(rows))
    return Outputs(jnp.float32(logits), {"embedding": jnp.zeros((len(logits), rows.shape[1]))}, head=head)


def costs(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1 - unit @ unit.T


def sinkhorn(a, b, cost, regularisation, iterations):
    """Of one pair of distributions, over the classes that are left."""
    kernel, u = np.exp(-cost / regularisation), np.full(len(a), 1 / len(a))
    for _ in range(iterations):
        v = b / (kernel.T @ u + 1e-8)
        u = a / (kernel @ v + 1e-8)
    return np.sum(u[:, None] * kernel * v * cost)


@pytest.mark.slow
def test_costs_are_one_minus_cosine():
    found = class_costs(jnp.float32(ROWS))
    np.testing.assert_allclose(found, costs(ROWS), atol=1e-6)
    np.testing.assert_allclose(found, class_costs(jnp.float32(ROWS * np.arange(1, 6)[:, None])), atol=1e-6)
    assert np.isfinite(class_costs(jnp.zeros((3, 2)))).all()


@pytest.mark.slow
def test_the_classifiers_rows_are_found_without_its_bias():
    np.testing.assert_allclose(classifier_rows(teacher_outputs()), ROWS, atol=1e-5)


@pytest.mark.slow
def test_a_real_networks_rows_are_its_weights(tiny):
    found = classifier_rows(tiny.evaluate(tiny.variables, tiny.images))
    np.testing.assert_allclose(found, tiny.variables["params"]["classifier"]["kernel"].T, atol=1e-6)


@pytest.mark.slow
def test_both_terms_are_the_papers(batch):
    rows = np.arange(6)
    target = -softmax(T, axis=1)[rows, LABEL] * log_softmax(S, axis=1)[rows, LABEL]
    transport = []
    for s, t, label in zip(S, T, LABEL, strict=True):
        rest = np.arange(5) != label
        cost = np.maximum(costs(ROWS)[np.ix_(rest, rest)], 0) + 1e-8
        transport.append(sinkhorn(softmax(s[rest] / 2), softmax(t[rest] / 2), cost, 0.1, 7))
    method = distiller.create("WKDLogit", gamma=3.0, temperature=2.0, sinkhorn_lambda=0.1, iterations=7, weight=1.5)
    batch = batch.replace(label=jnp.asarray(LABEL))
    loss, terms = method.apply({}, Outputs(jnp.float32(S), {}), teacher_outputs(), batch)
    np.testing.assert_allclose(terms["WKDLogit_target"], 1.5 * target.mean(), rtol=1e-4)
    np.testing.assert_allclose(terms["WKDLogit_others"], 1.5 * 3 * np.mean(transport), rtol=1e-4)
    np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-6)


@pytest.mark.slow
def test_with_little_regularisation_it_is_the_optimal_transport():
    a, b = softmax(S[:2], axis=1), softmax(T[:2], axis=1)
    cost = costs(ROWS)
    marginals = np.concatenate([np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))])
    best = [linprog(cost.ravel(), A_eq=marginals, b_eq=np.r_[x, y]).fun for x, y in zip(a, b, strict=True)]
    with jax.enable_x64(True):
        found = transport_rows(jnp.asarray(a), jnp.asarray(b), jnp.asarray(cost), 0.01, 500, epsilon=0.0)
    np.testing.assert_allclose(found, best, rtol=2e-2)


def test_the_labels_logit_and_constants_are_not_seen():
    cost = jnp.float32(costs(ROWS))
    expected = wasserstein_rows(jnp.float32(S), jnp.float32(T), LABEL, cost, 2.0)
    moved = jnp.float32(S + 3).at[np.arange(6), LABEL].add(20.0)
    np.testing.assert_allclose(wasserstein_rows(moved, jnp.float32(T - 1), LABEL, cost, 2.0), expected, rtol=1e-4)


@pytest.mark.slow
def test_moving_to_a_similar_class_costs_less():
    cost = jnp.array([[0.0, 0.1, 0.4], [0.1, 0.0, 0.4], [0.4, 0.4, 0.0]])
    teacher = jnp.array([[1.0, 0.0, 0.0]])
    near = transport_rows(jnp.array([[0.5, 0.5, 0.0]]), teacher, cost)
    far = transport_rows(jnp.array([[0.5, 0.0, 0.5]]), teacher, cost)
    np.testing.assert_allclose([near[0], far[0]], [0.05, 0.2], atol=1e-4)


@pytest.mark.slow
def test_the_released_epsilon_drops_what_is_dear_to_move():
    cost, teacher = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0]])
    found = [transport_rows(jnp.array([[0.5, 0.5]]), teacher, cost, epsilon=e)[0] for e in (1e-8, 0.0)]
    np.testing.assert_allclose(found[1], 0.5, rtol=1e-5)
    assert 0.3 < found[0] < 0.45


def test_a_teacher_without_classifier_or_embedding_is_refused(batch):
    student, method = Outputs(jnp.float32(S), {}), distiller.create("WKDLogit")
    with pytest.raises(ValueError, match="The teacher has no tap 'embedding'; it has logits only"):
        method.apply({}, student, Outputs(jnp.float32(T), {}), batch)
    with pytest.raises(ValueError, match="no classifier"):
        method.apply({}, student, teacher_outputs().replace(head=None), batch)
