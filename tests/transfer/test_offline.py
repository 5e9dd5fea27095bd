import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import distiller
import transfer
from models.layers import Dense
from registry import UserError

KEY = jax.random.key(3)


def test_init_is_pure_and_follows_from_its_key(offline, batch, same):
    run = offline()
    assert same(run.init(jax.random.key(0), batch), run.state)
    other = run.init(jax.random.key(1), batch)
    assert not same(other.params, run.state.params)
    assert int(run.state.step) == 0
    assert run.state.step.dtype == jnp.int32


def test_the_students_first_weights_do_not_depend_on_the_method(offline, batch, same):
    one, other = offline("SoftLogits+AT"), offline("Logits")
    assert same(one.state.params["student"], other.state.params["student"])


def test_a_step_is_pure_and_counts(offline, batch, same):
    run = offline()
    before = jax.tree.map(jnp.copy, run.state)
    first, second = run.step(run.state, batch, KEY), run.step(run.state, batch, KEY)
    assert same(first, second)
    assert same(before, run.state)
    assert int(first[0].step) == 1


def test_a_step_moves_every_weight_and_statistic_of_the_student(offline, batch):
    run = offline()
    state, _ = run.step(run.state, batch, KEY)
    for old, new in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(state.params), strict=True):
        assert np.any(old != new)
    for old, new in zip(jax.tree.leaves(run.state.extra), jax.tree.leaves(state.extra), strict=True):
        assert np.any(old != new)


def test_the_teacher_is_bit_identical_after_some_steps(offline, batch, small, same):
    run = offline()
    state = run.state
    for _ in range(3):
        state, _ = run.step(state, batch, KEY)
    assert same(state.frozen["teacher"], small.teacher_variables)


def test_the_second_step_does_not_recompile(offline, batch):
    run = offline()
    state, _ = run.step(run.state, batch, KEY)
    count = len(run.traces)
    run.step(state, batch.replace(image=batch.image[::-1], epoch=batch.epoch + 1.0), jax.random.key(4))
    assert len(run.traces) == count == 1


def test_metrics_are_float32_scalars_and_the_loss_is_their_sum(offline, batch):
    run = offline()
    _, metrics = run.step(run.state, batch, KEY)
    assert set(metrics) == {"loss", "cross_entropy", "SoftLogits", "AT", "correct", "labelled", "gradient_norm"}
    assert {(m.shape, m.dtype) for m in metrics.values()} == {((), jnp.dtype("float32"))}
    parts = metrics["cross_entropy"] + metrics["SoftLogits"] + metrics["AT"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    assert min(float(metrics[name]) for name in ("cross_entropy", "SoftLogits", "AT")) > 0


def by_hand(small, batch, teacher_image, method):
    """The loss's terms with the networks called directly: student in training mode, teacher in evaluation mode."""

    def terms(params):
        variables = {"params": params, "batch_stats": small.variables["batch_stats"]}
        student, _ = small.train(variables, (batch.image - 0.5) / 0.25)
        teacher = small.evaluate(small.teacher_variables, teacher_image)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(student.logits), batch.label[:, None], axis=1)
        return {"cross_entropy": method.ce_weight * jnp.mean(nll)} | method.apply({}, student, teacher, batch)[1]

    return terms


@pytest.mark.slow
def test_each_player_sees_the_view_through_its_own_statistics_and_the_teacher_evaluates(offline, small, batch):
    run = offline()
    state = run.state.replace(params={**run.state.params, "student": small.variables["params"]})
    _, metrics = run.step(state, batch, KEY)
    expected = by_hand(small, batch, (batch.image - 0.3) / 2.0, run.strategy.method)(small.variables["params"])
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    wrong = by_hand(small, batch, (batch.image - 0.5) / 0.25, run.strategy.method)(small.variables["params"])
    assert abs(wrong["SoftLogits"] - expected["SoftLogits"]) > 1e-3 * expected["SoftLogits"]


def test_a_step_is_gradient_descent_on_the_sum_of_the_terms(offline, small, batch):
    run = offline()
    state = run.state.replace(params={**run.state.params, "student": small.variables["params"]})
    state, _ = run.step(state, batch, KEY)
    terms = by_hand(small, batch, (batch.image - 0.3) / 2.0, run.strategy.method)
    gradient = jax.jit(jax.grad(lambda params: sum(terms(params).values())))(small.variables["params"])
    for new, old, slope in zip(
        *map(jax.tree.leaves, (state.params["student"], small.variables["params"], gradient)), strict=True
    ):
        np.testing.assert_allclose(new, old - 0.1 * slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max() + 1e-7)


def test_the_students_statistics_move_once_a_step(offline, small, batch):
    run = offline()
    state = run.state.replace(params={**run.state.params, "student": small.variables["params"]})
    state, _ = run.step(state, batch, KEY)
    _, expected = small.train(small.variables, (batch.image - 0.5) / 0.25)
    for new, value in zip(
        jax.tree.leaves(state.extra["student"]["batch_stats"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(new, value, rtol=1e-4, atol=1e-6)


def test_the_label_weight_is_the_methods(offline, batch):
    run = offline("Logits")
    assert run.strategy.method.ce_weight == 1.0
    method = dataclasses.replace(run.strategy, method=distiller.create("Logits", ce_weight=0.0))
    terms, _ = jax.jit(method.losses)(run.state.params, run.state, batch, KEY)
    assert terms["cross_entropy"] == 0
    assert terms["Logits"] > 0


def test_withheld_labels_still_learn_from_the_teacher(offline, batch):
    run = offline()
    state, metrics = run.step(run.state, batch.replace(label=jnp.full(6, -1, jnp.int32)), KEY)
    assert metrics["cross_entropy"] == 0
    assert metrics["labelled"] == 0
    np.testing.assert_allclose(metrics["loss"], metrics["SoftLogits"] + metrics["AT"], rtol=1e-6)
    moved = state.params["student"]["stem_conv"]["kernel"] - run.state.params["student"]["stem_conv"]["kernel"]
    assert np.isfinite(moved).all()
    assert np.any(moved)


def test_some_steps_bring_the_student_to_the_teacher(offline, batch):
    run = offline("Logits")
    state, losses = run.state, []
    unlabelled = batch.replace(label=jnp.full(6, -1, jnp.int32))
    for _ in range(150):
        state, metrics = run.step(state, unlabelled, KEY)
        losses.append(float(metrics["Logits"]))
    assert losses[-1] < 0.5 * losses[0]


class Maps(distiller.Distiller):
    """A method of the kind that asks for gradients: input gradients and the gradient at the last stage."""

    gradient_taps = ("input", "stage1")

    def __call__(self, student, teacher, batch):
        one_hot = jax.nn.one_hot(jnp.argmax(teacher.logits, axis=-1), 10)
        pairs = zip(*(jax.tree.leaves(outputs.gradients(one_hot)) for outputs in (student, teacher)), strict=True)
        loss = 1e3 * sum(jnp.mean(jnp.square(s - t)) for s, t in pairs)
        return loss, {"Maps": loss}


class Connected(distiller.Distiller):
    """A method that learns and remembers: a linear connector, and a count of its calls."""

    @nn.compact
    def __call__(self, student, teacher, batch):
        calls = self.variable("memory", "calls", jnp.zeros, (), jnp.int32)
        if not self.is_initializing():
            calls.value = calls.value + 1
        noise = jax.random.normal(self.make_rng("method"), (8,))
        guess = Dense(8)(student.features["embedding"] + 0.0 * noise)
        loss = jnp.mean(jnp.square(guess - teacher.features["embedding"]))
        return loss, {"Connected": loss}


def with_method(run, method, batch):
    strategy = dataclasses.replace(run.strategy, method=method)
    return strategy, jax.jit(strategy.init)(jax.random.key(0), batch), jax.jit(strategy.step)


def test_a_method_that_asks_for_gradients_teaches_the_student_through_them(offline, batch, small, same):
    _, state, step = with_method(offline(), Maps(ce_weight=0.0), batch)
    new, metrics = step(state, batch, KEY)
    assert metrics["Maps"] > 0
    np.testing.assert_allclose(metrics["loss"], metrics["Maps"], rtol=1e-6)
    moved = new.params["student"]["stem_conv"]["kernel"] - state.params["student"]["stem_conv"]["kernel"]
    assert np.isfinite(moved).all()
    assert np.any(moved)
    assert same(new.frozen["teacher"], small.teacher_variables)


def test_no_gradient_reaches_the_teacher_through_its_gradients(offline, batch, small):
    strategy, state, _ = with_method(offline(), Maps(), batch)

    @jax.jit
    @jax.grad
    def slope(teacher):
        terms, _ = strategy.losses(state.params, state.replace(frozen={"teacher": teacher}), batch, KEY)
        return sum(terms.values())

    assert not any(np.any(g) for g in jax.tree.leaves(slope(small.teacher_variables)))


def test_a_methods_own_weights_learn_and_its_memory_is_kept(offline, batch):
    _, state, step = with_method(offline(), Connected(), batch)
    assert int(state.extra["method"]["memory"]["calls"]) == 0
    new, metrics = step(*step(state, batch, KEY)[:1], batch, KEY)
    assert int(new.extra["method"]["memory"]["calls"]) == 2
    for old, moved in zip(*map(jax.tree.leaves, (state.params["method"], new.params["method"])), strict=True):
        assert np.any(old != moved)
    assert metrics["Connected"] > 0


def test_unknown_strategy_gives_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'Offline'"):
        transfer.create("offlin", student=None, optimizer=optax.sgd(0.1))


def test_strategies_say_which_keys_of_the_recipe_they_read():
    assert set(transfer.registry.get("Offline").reads) >= {"distiller", "teacher_param", "teacher_views"}
    assert not transfer.registry.get("Labels").reads
