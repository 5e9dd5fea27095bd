import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulation import answer, batches, build, cross_entropy, simulate

import distiller
import transfer
from registry import UserError

KEY = jax.random.key(1)


class Equations:
    """Tarvainen and Valpola, equation 1, with the released code's ramp; squared difference of logits."""

    seen, teacher, updates = None, None, 0

    def __init__(self, decay, ramp):
        self.decay, self.ramp = decay, ramp

    def terms(self, params, fixed, batch):
        if batch is not self.seen:  # a new step: `fixed` is what the update before made
            d = min(self.decay, 1 - 1 / self.updates) if self.ramp and self.updates else self.decay
            self.teacher = jax.tree.map(lambda t, s: d * t + (1 - d) * s, self.teacher or fixed, fixed)
            self.seen, self.updates = batch, self.updates + 1
        logits, teacher = answer(params, batch.image)[1], answer(self.teacher, batch.image)[1]
        between = 2.0 * ((logits - teacher) ** 2).mean()
        return {"cross_entropy": 5.0 * cross_entropy(logits, batch.label), "Logits": between}


@pytest.mark.parametrize("ramp", [True, False])
def test_four_steps_are_those_of_the_equations(ramp):
    equations = Equations(0.6, ramp)
    run = build("EMA", decay=0.6, ramp=ramp, method=distiller.create("Logits", weight=2.0, ce_weight=5.0))
    state, params = simulate(run, batches(4), equations.terms)
    d = 0.6  # after four updates the ramp has passed it
    expected = jax.tree.map(lambda t, s: d * t + (1 - d) * s, equations.teacher, params)["student"]
    for name, value in expected.items():
        np.testing.assert_allclose(state.extra["teacher"]["params"][name], value, rtol=1e-4, atol=1e-6)


def ema(player, **options):
    return transfer.create(
        "EMA",
        student=player("student"),
        method=distiller.create("SoftLogits+AT"),
        optimizer=optax.sgd(0.1, 0.9),
        **options,
    )


@pytest.fixture(scope="module")
def run(player, batch):
    """A mean teacher of a network with batch norm: its strategy, first state and that after two steps."""
    strategy = ema(player, decay=0.5)
    step, state = jax.jit(strategy.step), jax.jit(strategy.init)(KEY, batch)
    return strategy, state, step(step(state, batch, KEY)[0], batch, KEY)[0]


@pytest.mark.slow
def test_decay_1_is_offline_with_the_students_first_weights(player, batch):
    strategy = ema(player, decay=1.0, ramp=False)
    state = jax.jit(strategy.init)(KEY, batch)
    offline = transfer.create(
        "Offline",
        student=player("student"),
        teacher=player("teacher"),
        teacher_variables=strategy.student_variables(state),
        method=strategy.method,
        optimizer=strategy.optimizer,
    )
    other = jax.jit(offline.init)(KEY, batch)
    steps = jax.jit(strategy.step), jax.jit(offline.step)
    for epoch in range(3):
        seen = batch.replace(epoch=jnp.float32(epoch))
        state, metrics = steps[0](state, seen, KEY)
        other, expected = steps[1](other, seen, KEY)
        assert metrics["SoftLogits"] == expected["SoftLogits"] > 0
    for found, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_teachers_statistics_are_averaged_too(run):
    _, first, last = run
    teacher, student = last.extra["teacher"]["batch_stats"], last.extra["student"]["batch_stats"]
    for before, mean, now in zip(
        *map(jax.tree.leaves, (first.extra["student"]["batch_stats"], teacher, student)), strict=True
    ):
        assert np.any(mean != before)
        assert np.any(mean != now)


def test_the_teacher_is_tested_and_kept(run):
    strategy, _, last = run
    assert list(strategy.learners(last)) == ["student", "teacher"]
    assert strategy.learners(last)["teacher"][1] is last.extra["teacher"]


def test_in_train_mode_the_teacher_reads_the_batchs_statistics(player, batch, run):
    _, first, _ = run
    # statistics that are nobody's: only who evaluates with them sees them
    strange = jax.tree.map(lambda x: x + 3.0, first.extra["teacher"]["batch_stats"])
    other = first.replace(extra={**first.extra, "teacher": {**first.extra["teacher"], "batch_stats": strange}})

    def term(state, **options):
        strategy = ema(player, **options)
        return float(jax.jit(strategy.losses)(state.params, state, batch, KEY)[0]["SoftLogits"])

    assert term(first, train_mode=True) == term(other, train_mode=True)
    assert term(first) != term(other)


def test_impossible_decay_is_refused(player):
    with pytest.raises(UserError, match=r"'decay' must be from 0 to 1 \(default 0\.999\); got 1\.5"):
        ema(player, decay=1.5)
