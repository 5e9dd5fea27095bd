import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax

import distiller
import transfer
from models.layers import Dense
from registry import UserError
from transfer.base import STUDENT

KEY = jax.random.key(1)


def schedule(count):
    """A learning rate that falls within a generation."""
    return jnp.where(count < 2, 0.1, 0.01)


class Drawn(distiller.Distiller):
    """Learns, remembers, and wants a second view."""

    views = ("weak", "weak")

    @nn.compact
    def __call__(self, student, teacher, batch):
        calls = self.variable("memory", "calls", jnp.zeros, (), jnp.int32)
        if not self.is_initializing():
            calls.value = calls.value + 1
        guess = Dense(8)(student.features["embedding"])
        loss = jnp.mean(jnp.square(guess - teacher.features["embedding"]))
        return loss + jnp.mean(jnp.square(student.views[0].logits)), {"Drawn": loss}


class Phase(Drawn):
    """With an epoch in which only its own part learns."""

    first_phase_learns = ("method",)

    @property
    def first_phase_epochs(self):
        return 1


def make(player, method=None, name="BornAgain", **options):
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(schedule, 0.9))
    method = {} if name == "Labels" else {"method": method or distiller.create("SoftLogits+AT")}
    return transfer.create(name, student=player("student"), optimizer=optimizer, **method, **options)


def train(strategy, batch, steps, state=None, views=0):
    """Two steps an epoch, each of other images; -> (state, the last metrics)."""
    step = jax.jit(strategy.step)
    batch = batch.replace(views=(1 - batch.image,) * views)
    state = jax.jit(strategy.init)(KEY, batch) if state is None else state
    for number in steps:
        image = jnp.roll(batch.image, number, axis=1)
        seen = batch.replace(epoch=jnp.float32(number / 2), image=image, label=jnp.roll(batch.label, number))
        state, metrics = step(state, seen, jax.random.fold_in(KEY, number))
    return state, metrics


@pytest.fixture(scope="module")
def generations(player, batch):
    """Three generations of two epochs of two steps: the strategy, and its states after 0 and more steps."""
    strategy = make(player, generations=3, train_epoch=2)
    states = {0: jax.jit(strategy.init)(KEY, batch)}
    for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
        states[end], _ = train(strategy, batch, range(start, end), states[start])
    return strategy, states


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, Drawn(), Phase()], ids=["SoftLogits+AT", "views", "phase"])
def test_generation_1_is_label_only_training_to_the_bit(method, player, batch, same):
    views = len(method.views) - 1 if method else 0
    found, metrics = train(make(player, method, train_epoch=2), batch, range(4), views=views)
    expected, wanted = train(make(player, name="Labels"), batch, range(4))
    assert same(found.params["student"], expected.params["student"])
    assert same(found.extra["student"], expected.extra["student"])
    assert metrics["loss"] == metrics["cross_entropy"] == wanted["loss"]


def first_weights(player, batch, generation):
    """Weights before generation `generation`, from 1."""
    key = jax.random.fold_in(KEY, STUDENT)
    key = jax.random.fold_in(key, generation - 1) if generation > 1 else key
    return jax.jit(player("student").init)(key, batch.image)


@pytest.mark.slow
@pytest.mark.parametrize("generation", [2, 3])
def test_a_generation_starts_afresh_and_learns_from_the_one_before(generation, generations, player, batch):
    """As `Offline` with that teacher, from the generation's own weights, with a fresh optimizer and schedule."""
    strategy, states = generations
    start = 4 * (generation - 1)
    teacher = strategy.student_variables(states[start])
    offline = make(player, name="Offline", teacher=player("teacher"), teacher_variables=teacher)
    first = first_weights(player, batch, generation)
    state = jax.jit(offline.init)(KEY, batch)
    state = state.replace(params={**state.params, "student": first["params"]})
    expected, wanted = train(offline, batch, [start], state)
    found, metrics = train(strategy, batch, [start], states[start])
    np.testing.assert_allclose(metrics["SoftLogits"], wanted["SoftLogits"], rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], wanted["cross_entropy"], rtol=1e-5)
    for tree in ("params", "opt_state"):
        for a, b in zip(jax.tree.leaves(getattr(found, tree)), jax.tree.leaves(getattr(expected, tree)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not np.allclose(first["params"]["stem_conv"]["kernel"], teacher["params"]["stem_conv"]["kernel"], atol=0.01)


def test_generations_that_ended_do_not_move_and_are_reported(generations, same):
    strategy, states = generations
    ended = strategy.student_variables(states[4])
    for steps in (5, 8, 9):
        learners = strategy.learners(states[steps])
        assert list(learners) == ["student", "generation1", "generation2"]
        assert same(learners["generation1"][1], ended)
    assert same(strategy.learners(states[9])["generation2"][1], strategy.student_variables(states[8]))
    assert same(strategy.learners(states[5])["generation2"][1], strategy.student_variables(states[5]))  # yet to come


def test_the_ensemble_is_the_mean_of_the_probabilities(generations):
    random = np.random.RandomState(0)
    logits = {name: 5 * random.standard_normal((4, 3)).astype(np.float32) for name in ("a", "b", "c")}
    (found,) = generations[0].ensembles(logits).values()
    expected = np.mean([softmax(z, axis=1) for z in logits.values()], axis=0)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)


def test_a_switch_that_was_skipped_is_made_up_for(generations, player, batch, same):
    strategy, states = generations
    found, _ = train(strategy, batch, [5], states[4])
    assert int(found.extra["generations"]["number"]) == 1
    assert same(found.extra["generations"]["slots"][0], strategy.student_variables(states[4]))


@pytest.mark.slow
def test_the_methods_own_part_starts_afresh(player, batch, same):
    strategy = make(player, Drawn(), generations=2, train_epoch=2)
    state, _ = train(strategy, batch, range(5), views=1)
    assert int(state.extra["method"]["memory"]["calls"]) == 1
    first = jax.jit(strategy.init)(KEY, batch.replace(views=(batch.image,))).params["method"]
    before, _ = train(strategy, batch, range(4), views=1)
    assert not same(before.params["method"], first)  # weight decay moved it
    assert same(state.extra["generations"]["fresh"]["params"], first)


@pytest.mark.slow
def test_a_first_phase_comes_before_every_generation_but_the_first(player, batch, same):
    strategy = make(player, Phase(), generations=3, train_epoch=2)
    assert strategy.epochs(2) == 3 * 2 + 2
    before, _ = train(strategy, batch, range(5), views=1)
    after, metrics = train(strategy, batch, [5], before, views=1)
    assert same(after.params["student"], first_weights(player, batch, 2)["params"])
    assert not same(after.params["method"], before.params["method"])
    assert metrics["cross_entropy"] == 0 < metrics["Drawn"]
    later, metrics = train(strategy, batch, [6], after, views=1)
    assert not same(later.params["student"], after.params["student"])
    assert metrics["cross_entropy"] > 0
    third, _ = train(strategy, batch, [9, 10], later, views=1)
    assert int(third.extra["generations"]["number"]) == 2


def test_one_generation_is_label_only_training(player, batch, same):
    strategy = make(player, generations=1, train_epoch=2)
    found, _ = train(strategy, batch, range(4))
    expected, _ = train(make(player, name="Labels"), batch, range(4))
    assert same(found.params["student"], expected.params["student"])
    assert list(strategy.learners(found)) == ["student"]
    assert strategy.ensembles({}) == {}


def test_no_generation_is_refused(player):
    with pytest.raises(UserError, match="got 0"):
        make(player, generations=0)
