"""Offline with several teachers: sums of losses, averages of logits, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulation import compiled

import distiller
import transfer
from registry import UserError
from transfer import ensembles

KEY = jax.random.key(3)
FACTORS = {"one": 0.25, "other": 0.75}


@pytest.fixture(scope="module")
def teachers(player, staged, small, batch):
    """Two teachers of different networks and input statistics, and their variables."""
    one, other = player("one", 0.3, 2.0), staged("other")
    return (one, other), (small.teacher_variables, jax.jit(other.init)(jax.random.key(6), batch.image))


def offline(player, teacher, variables, method, **options):
    return transfer.create(
        "Offline",
        student=player("student"),
        teacher=teacher,
        teacher_variables=variables,
        method=distiller.create(method),
        optimizer=optax.sgd(0.1),
        **options,
    )


def terms(strategy, batch):
    state = jax.jit(strategy.init)(KEY, batch)
    return state, jax.jit(strategy.losses)(state.params, state, batch, KEY)[0]


@pytest.fixture(scope="module")
def alone(teachers, player, batch):
    """The terms under each of the teachers alone."""
    return [terms(offline(player, t, v, "SoftLogits+PKT"), batch)[1] for t, v in zip(*teachers, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(), (0.25, 0.75), (2.0, 0.0)])
def test_losses_are_the_weighted_sum_of_each_teachers(weights, teachers, alone, player, batch):
    state, found = terms(offline(player, *teachers, "SoftLogits+PKT", teacher_weights=weights), batch)
    assert set(state.frozen) == {"teacher1", "teacher2"}
    factors = weights or (0.5, 0.5)
    for name in ("SoftLogits", "PKT"):
        wanted = sum(f * e[name] for f, e in zip(factors, alone, strict=True))
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["cross_entropy"], alone[0]["cross_entropy"], rtol=1e-6)


@pytest.mark.slow
def test_each_teacher_has_connectors_of_its_own(teachers, player, staged, batch, same):
    strategy = dataclasses.replace(offline(player, *teachers, "VkD"), student=staged("student"))
    state = jax.jit(strategy.init)(KEY, batch)
    assert set(state.params["method"]) == {"teacher1", "teacher2"}
    after, metrics = jax.jit(strategy.step)(state, batch, KEY)
    assert metrics["VkD"] > 0
    for name in ("teacher1", "teacher2"):
        assert not same(state.params["method"][name], after.params["method"][name])
    assert same(state.frozen, after.frozen)


@pytest.mark.slow
def test_logits_are_averaged(teachers, player, batch):
    found = terms(offline(player, *teachers, "Logits", combine="logits", teacher_weights=(1.0, 3.0)), batch)[1]
    answers = [compiled(p, train=False)(v, batch.image)[0].logits for p, v in zip(*teachers, strict=True)]
    student = player("student")
    first = jax.jit(lambda k: student.init(jax.random.fold_in(k, 0), batch.image))(KEY)
    own = compiled(student)(first, batch.image)[0].logits
    mean = 0.25 * np.asarray(answers[0]) + 0.75 * np.asarray(answers[1])
    method = distiller.create("Logits")
    expected = method.weight * np.mean((np.asarray(own, np.float64) - mean) ** 2)
    np.testing.assert_allclose(found["Logits"], expected, rtol=1e-4)


@pytest.mark.slow
def test_probabilities_are_averaged_with_the_labels_confidence(teachers, player, batch):
    strategy = offline(player, *teachers, "SoftLogits", combine="probabilities", weighting="confidence")
    found = terms(strategy, batch)[1]
    answers = [compiled(p, train=False)(v, batch.image)[0] for p, v in zip(*teachers, strict=True)]
    how = strategy.task, strategy.method, "probabilities", "confidence"
    mean = ensembles.combined(answers, [0.5, 0.5], batch, *how)
    student = player("student")
    first = jax.jit(lambda k: student.init(jax.random.fold_in(k, 0), batch.image))(KEY)
    expected = strategy.method.apply({}, compiled(student)(first, batch.image)[0], mean, batch)[0]
    np.testing.assert_allclose(found["SoftLogits"], expected, rtol=1e-4)
    assert set(found) == {"cross_entropy", "SoftLogits"}


@pytest.mark.slow
def test_equal_losses_have_the_gradient_of_the_mean_probabilities(teachers, player, batch):
    """Under SoftLogits this is the averaging of You et al."""
    strategy = offline(player, *teachers, "SoftLogits")
    state = jax.jit(strategy.init)(KEY, batch)
    found = jax.jit(jax.grad(lambda p: strategy.losses(p, state, batch, KEY)[0]["SoftLogits"]))(state.params)
    answers = [compiled(p, train=False)(v, batch.image)[0].logits for p, v in zip(*teachers, strict=True)]
    target = sum(jax.nn.softmax(z / 4.0) for z in answers) / 2.0

    def loss(params):
        variables = {"params": params, **state.extra["student"]}
        own = player("student").forward(variables, batch.image, train=True)[0].logits
        return -0.9 * 16 * jnp.mean(jnp.sum(target * jax.nn.log_softmax(own / 4.0), axis=-1))

    expected = jax.jit(jax.grad(loss))(state.params["student"])
    for a, b in zip(jax.tree.leaves(found["student"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_what_makes_no_sense_is_refused(teachers, player, batch):
    with pytest.raises(UserError, match=r"'losses', 'logits' or 'probabilities' \(default 'losses'\); got 'mean'"):
        offline(player, *teachers, "Logits", combine="mean")
    for weights, problem in (
        ((1.0,), r"be as many numbers as there are teachers \(2\); got"),
        ((1.0, 2.0, 3.0), r"be as many numbers as there are teachers \(2\); got"),
        (("a", 1.0), "be a number"),
        ((True, 1.0), "be a number"),
        ((float("nan"), 1.0), "be a finite number"),
        ((-1.0, 1.0), "not be negative"),
        ((0.0, 0.0), "not all be 0"),
    ):
        with pytest.raises(UserError, match=f"'teacher_weights' must {problem}"):
            offline(player, *teachers, "Logits", teacher_weights=weights)
    with pytest.raises(UserError, match="as many numbers"):
        offline(player, teachers[0][0], teachers[1][0], "Logits", teacher_weights=(1.0,))
    with pytest.raises(ValueError, match="only logits are there"):
        offline(player, *teachers, "AT", combine="logits").init(KEY, batch)
    banked = batch.replace(teacher_logits=jnp.zeros((6, 10), jnp.float32))
    with pytest.raises(ValueError, match="the logits of one teacher"):
        offline(player, *teachers, "Logits").init(KEY, banked)
