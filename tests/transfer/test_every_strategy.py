"""What every strategy promises. A new one is picked up by its name, built from what its class declares (`build`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulation import compiled

import transfer
from registry import summary

KEY = jax.random.key(3)
COUNTS = {"loss", "correct", "labelled", "gradient_norm"}
NAMES = transfer.names()


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_init_and_step_are_pure(name, build, same):
    run = build(name)
    assert same(run.init(jax.random.key(0), run.batch), run.state)
    before = jax.tree.map(jnp.copy, run.state)
    assert same(run.step(run.state, run.batch, jax.random.key(1)), (run.after, run.metrics))
    assert same(before, run.state)
    assert int(run.state.step) == 0
    assert int(run.after.step) == 1
    assert not same(run.init(jax.random.key(1), run.batch).params, run.state.params)


@pytest.mark.parametrize("name", NAMES)
def test_the_second_step_does_not_recompile(name, build):
    run = build(name)
    state, _ = run.step(run.after, run.batch.replace(epoch=run.batch.epoch + 1.0), KEY)
    run.step(state, run.batch, KEY)
    assert len(run.traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_state_keeps_its_structure_shapes_and_types(name, build):
    run = build(name)
    again, _ = jax.eval_shape(run.strategy.step, run.after, run.batch, KEY)
    assert jax.tree.structure(run.state) == jax.tree.structure(run.after) == jax.tree.structure(again)
    assert shapes(run.state) == shapes(run.after)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(again)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(run.after)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_reaches_all_that_learn_and_nothing_that_is_frozen(name, build, same):
    run = build(name)
    later, _ = run.step(run.after, run.batch, KEY)
    assert set(later.opt_state[0]) == set(run.state.params)
    for player, tree in later.opt_state[0].items():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree)), player
        assert not jax.tree.leaves(tree) or any(np.any(x) for x in jax.tree.leaves(tree)), player
    if run.after.frozen:

        @jax.jit
        @jax.grad
        def to_frozen(frozen):
            state = run.after.replace(frozen=frozen)
            return sum(run.strategy.losses(run.after.params, state, run.batch, KEY)[0].values())

        assert not any(np.any(x) for x in jax.tree.leaves(to_frozen(run.after.frozen)))
    assert same(run.state.frozen, run.after.frozen)
    for player, tree in run.state.params.items():
        assert not jax.tree.leaves(tree) or not same(tree, run.after.params[player]), player


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_is_known_before_it_is_computed(name, build, same):
    run = build(name)
    assert same(run.state.frozen, {player: run.strategy.frozen[player] for player in run.state.frozen})


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_finite_float32_scalars_and_the_loss_is_the_sum_of_the_terms(name, build):
    run = build(name)
    assert {(m.shape, m.dtype) for m in run.metrics.values()} == {((), jnp.dtype("float32"))}
    assert all(np.isfinite(m) for m in run.metrics.values())
    assert set(run.metrics) >= COUNTS
    terms, (_, metrics) = jax.eval_shape(run.strategy.losses, run.state.params, run.state, run.batch, KEY)
    assert "cross_entropy" in terms
    assert not set(terms) & (set(metrics) | COUNTS)
    assert set(run.metrics) == set(terms) | set(metrics) | COUNTS
    np.testing.assert_allclose(run.metrics["loss"], sum(float(run.metrics[term]) for term in terms), rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(run.gradients)))
    np.testing.assert_allclose(run.metrics["gradient_norm"], norm, rtol=1e-5)


def twice(run):
    """(two keys, two keys) -> the states and metrics of two seeds after a step, without what is frozen."""

    def once(key, draw):
        state = run.strategy.init(key, run.batch).replace(frozen={})
        state, metrics = run.strategy.step(state.replace(frozen=run.state.frozen), run.batch, draw)
        return state.replace(frozen={}), metrics

    return jax.vmap(once)


KEYS, DRAWS = jax.random.split(jax.random.key(7), 2), jax.random.split(jax.random.key(8), 2)


@pytest.mark.parametrize("name", NAMES)
def test_two_seeds_can_be_stacked(name, build):
    run = build(name)
    together = jax.eval_shape(twice(run), KEYS, DRAWS)
    expected = jax.tree.map(lambda x: ((2, *x.shape), x.dtype), (run.after.replace(frozen={}), run.metrics))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), together) == expected


@pytest.mark.parametrize("name", ["Offline", "PSKD", "BornAgain"])
def test_two_seeds_side_by_side_are_as_one_after_the_other(name, build):
    """A frozen teacher that the seeds share, a memory by index, and a state that starts anew.

    JAX promises the rest: what `vmap` can trace computes the same numbers.
    """
    run = build(name)
    together = jax.jit(twice(run))(KEYS, DRAWS)
    for i in range(2):
        state, metrics = run.step(run.init(KEYS[i], run.batch), run.batch, DRAWS[i])
        mine = jax.tree.map(lambda x, i=i: x[i], together)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves((state.replace(frozen={}), metrics)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", ["some", "all"])
def test_withheld_labels_give_finite_numbers(name, rows, build):
    run = build(name)
    label = jnp.full_like(run.batch.label, -1) if rows == "all" else run.batch.label.at[::2].set(-1)
    batch = run.batch.replace(label=label)
    if batch.previous is not None:
        batch = batch.replace(previous=batch.previous.replace(label=label))
    state, metrics = run.step(run.after, batch, KEY)
    assert all(np.isfinite(x).all() for x in floats((state, metrics)))
    if rows == "all":
        assert metrics["cross_entropy"] == metrics["labelled"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_all_learners_are_networks_that_answer_and_the_student_is_the_first(name, build):
    run = build(name)
    learners, image = run.strategy.learners(run.after), run.batch.image
    assert next(iter(learners)) == "student"
    assert learners["student"][0] == run.strategy.student
    answers = {}
    for who, (player, variables) in {**learners, **run.strategy.tested(run.after)}.items():
        answers[who] = np.asarray(compiled(player, train=False)(variables, image)[0].logits)
    for player, variables in learners.values():
        fresh = jax.eval_shape(player.init, jax.random.key(0), image)
        plain = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        assert jax.tree.structure(plain) == jax.tree.structure(fresh)
    answers |= run.strategy.ensembles(answers)
    for logits in answers.values():
        assert logits.shape == (6, 10)
        assert np.isfinite(logits).all()
    assert jax.tree.structure(run.strategy.student_variables(run.after)) == jax.tree.structure(learners["student"][1])


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_where_it_is_from(name):
    line, source = summary(transfer.registry.get(name), name)
    assert line.endswith(".")
    assert source
