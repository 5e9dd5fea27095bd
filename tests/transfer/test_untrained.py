"""Which layers of the student a loss reaches, from the trace of a step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import distiller
from tasks.classification import Classification
from transfer.untrained import untrained, without_labels

LAYERS = {
    "SoftLogits": (),
    "SoftLogits+AT": (),
    "PKT": ("classifier",),
    "AT": ("classifier",),
    "SRRL": ("classifier",),
    "ExpKD": (),
}
STAGED = ("bn2", "classifier", "dense2")


@pytest.fixture
def asked(offline, batch):
    """Method's name, options -> (strategy without labels, shapes of its state)."""

    def build(method, **options):
        strategy = dataclasses.replace(
            offline().strategy, method=distiller.create(method, **options), task=Classification(labelled=False)
        )
        return strategy, jax.eval_shape(strategy.init, jax.random.key(0), batch)

    return build


@pytest.mark.parametrize("method", LAYERS)
def test_layers_behind_what_a_method_reads_stay_untrained(method, asked, batch):
    strategy, state = asked(method)
    assert untrained(strategy, state, batch) == LAYERS[method]
    with_labels = dataclasses.replace(strategy, task=Classification())
    assert untrained(with_labels, state, batch) == ()


def test_stages_behind_the_hint_stay_untrained(asked, staged, batch):
    strategy, _ = asked("FitNet", stages="1:1")
    strategy = dataclasses.replace(strategy, student=staged("student"))
    state = jax.eval_shape(strategy.init, jax.random.key(0), batch)
    assert untrained(strategy, state, batch) == STAGED


def test_a_layer_that_starts_from_trained_weights_is_none_of_them(asked, batch):
    strategy, state = asked("AT")
    start = {("params", "classifier", "kernel"): jnp.zeros((8, 10)), ("batch_stats", "stem_bn", "mean"): jnp.zeros(8)}
    strategy = dataclasses.replace(strategy, student=dataclasses.replace(strategy.student, start=start))
    assert untrained(strategy, state, batch) == ()


def test_the_task_learns_of_them_and_the_user_is_told(asked, batch):
    said = []
    strategy, state = asked("AT")
    assert without_labels(strategy, state, batch, said.append).task.untrained == ("classifier",)
    assert "No loss reaches the student's classifier" in said[0]
    assert "best/ is last/" in said[0]
    strategy, state = asked("SoftLogits")
    assert without_labels(strategy, state, batch, said.append).task == Classification(labelled=False)
    assert len(said) == 1


@pytest.mark.slow
def test_a_step_without_labels_has_no_label_term(offline, asked, batch):
    strategy, _ = asked("SoftLogits+AT")
    state = offline().state
    withheld = batch.replace(label=jnp.full_like(batch.label, -1))
    new, metrics = jax.jit(strategy.step)(state, withheld, jax.random.key(3))
    assert set(metrics) == {"loss", "SoftLogits", "AT", "gradient_norm"}
    expected, _ = offline().step(state, withheld, jax.random.key(3))
    for ours, theirs in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected.params), strict=True):
        assert jnp.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
