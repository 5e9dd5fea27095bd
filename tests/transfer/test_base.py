"""What every strategy inherits: a method's first phase, further views, the shares of the gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulation import compiled

import distiller
import transfer
from models.layers import Dense

KEY = jax.random.key(1)


class TwoPhases(distiller.Distiller):
    """Trains a connector for two epochs, then teaches through it."""

    learns: tuple[str, ...] = ("method",)

    @property
    def first_phase_epochs(self):
        return 2

    @property
    def first_phase_learns(self):
        return self.learns

    @nn.compact
    def __call__(self, student, teacher, batch):
        guess = Dense(8, name="connector")(student.features["embedding"])
        loss = jnp.mean(jnp.square(guess - teacher.features["embedding"]))
        return loss, {"TwoPhases": loss}


class Views(distiller.Distiller):
    """Wants two weak views and a strong one; keeps what it saw apart from the first."""

    views = ("weak", "weak", "strong")

    def __call__(self, student, teacher, batch):
        loss = sum(jnp.mean(jnp.square(s.logits - t.logits)) for s, t in zip(student.views, teacher.views, strict=True))
        return loss, {"Views": loss}


def offline(player, small, method, optimizer=None):
    return transfer.create(
        "Offline",
        student=player("student"),
        teacher=player("teacher"),
        teacher_variables=small.teacher_variables,
        method=method,
        optimizer=optimizer or optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    )


def at(batch, epoch):
    return batch.replace(epoch=jnp.float32(epoch))


@pytest.fixture(scope="module")
def phases(player, small, batch):
    """A strategy whose student waits for two epochs: its first state, that after an update in them, and its step."""
    strategy = offline(player, small, TwoPhases())
    init, step = jax.jit(strategy.init), jax.jit(strategy.step)
    state = init(KEY, batch)
    return strategy, state, step(state, at(batch, 0.5), KEY), step


def test_in_the_first_phase_only_the_named_players_move(phases, same):
    _, before, (after, metrics), _ = phases
    assert same(before.params["student"], after.params["student"])
    assert same(before.extra["student"], after.extra["student"])
    assert not same(before.params["method"], after.params["method"])
    assert metrics["cross_entropy"] == 0


def test_the_training_proper_starts_with_a_fresh_optimizer(phases, batch, same):
    strategy, _, (state, _), step = phases
    assert any(np.any(x) for x in jax.tree.leaves(state.opt_state))
    found, metrics = step(state, at(batch, 2), KEY)
    expected, _ = step(state.replace(opt_state=strategy.optimizer.init(state.params)), at(batch, 2.5), KEY)
    assert same(found.params, expected.params)
    assert same(found.opt_state, expected.opt_state)
    assert metrics["cross_entropy"] > 0
    later, _ = step(state, at(batch, 2.5), KEY)
    assert not same(later.params, expected.params)
    assert not same(found.params["student"], state.params["student"])


def test_both_learn_in_the_first_phase_where_the_method_says_so(player, small, batch, same):
    strategy = offline(player, small, TwoPhases(learns=("student", "method")))
    state = jax.jit(strategy.init)(KEY, batch)
    after, _ = jax.jit(strategy.step)(state, batch, KEY)
    assert not same(state.params["student"], after.params["student"])


def test_the_first_phase_comes_on_top_of_the_epochs_asked_for(player, small):
    assert offline(player, small, TwoPhases()).epochs(30) == 32
    assert offline(player, small, distiller.create("SoftLogits")).epochs(30) == 30
    sum_of = distiller.Composition(parts=(TwoPhases(), distiller.create("SoftLogits")))
    assert offline(player, small, sum_of).epochs(30) == 32


@pytest.mark.slow
def test_in_a_sum_the_others_wait_for_the_first_phase(player, small, batch):
    sum_of = distiller.Composition(parts=(TwoPhases(), distiller.create("SoftLogits")))
    strategy = offline(player, small, sum_of)
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    first, then = step(state, batch, KEY)[1], step(state, at(batch, 2), KEY)[1]
    assert first["SoftLogits"] == 0 < then["SoftLogits"]
    assert first["TwoPhases"] > 0


def test_each_view_is_looked_at_and_statistics_pass_through_all(player, small, batch):
    network, batch = player("student"), batch.replace(views=(batch.image[::-1], 1 - batch.image))
    look = jax.jit(lambda v, b: network.look(v, b, 3, train=True))
    outputs, stats = look(small.variables, batch)
    assert len(outputs.views) == 2
    variables = small.variables
    for image, seen in zip((batch.image, *batch.views), (outputs, *outputs.views), strict=True):
        expected, after = compiled(network)(variables, image)
        np.testing.assert_allclose(seen.logits, expected.logits, rtol=1e-5, atol=1e-6)
        variables = {**variables, "batch_stats": after}
    for found, expected in zip(jax.tree.leaves(stats), jax.tree.leaves(variables["batch_stats"]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_parts_of_a_sum_get_the_views_that_they_declare(player, small, batch):
    class Strong(distiller.Distiller):
        views = ("weak", "strong")

        def __call__(self, student, teacher, batch):
            loss = jnp.mean(jnp.square(student.views[0].logits))
            return loss, {"Strong": loss}

    sum_of = distiller.Composition(parts=(Strong(), Views(), distiller.create("Logits")))
    assert sum_of.views == ("weak", "strong", "weak")
    strategy = offline(player, small, sum_of)
    strong, weak = 1 - batch.image, batch.image[::-1]
    batch = batch.replace(views=(strong, weak))
    state = jax.jit(strategy.init)(KEY, batch)
    terms = jax.jit(strategy.losses)(state.params, state, batch, KEY)[0]
    alone = offline(player, small, Strong())
    expected = jax.jit(alone.losses)(state.params, state, batch.replace(views=(strong,)), KEY)[0]
    np.testing.assert_allclose(terms["Strong"], expected["Strong"], rtol=1e-5)
    assert terms["Views"] > 0


@pytest.mark.slow
def test_shares_are_those_of_the_terms_own_gradients(offline, batch):
    run = offline()
    found = jax.jit(run.strategy.shares)(run.state, batch, KEY)

    def norm(name):
        def term(student):
            return run.strategy.losses({**run.state.params, "student": student}, run.state, batch, KEY)[0][name]

        return float(optax.tree.norm(jax.jit(jax.grad(term))(run.state.params["student"])))

    norms = {name: norm(name) for name in ("cross_entropy", "SoftLogits", "AT")}
    for name, value in norms.items():
        np.testing.assert_allclose(found[name], value / sum(norms.values()), rtol=1e-4)
