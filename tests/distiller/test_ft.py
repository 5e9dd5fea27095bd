import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distiller
from distiller.ft import factor_loss
from models import Outputs

RANDOM = np.random.RandomState(0)


def network(channels, seed, side=4):
    feature = np.abs(np.random.RandomState(seed).standard_normal((3, side, side, channels)))
    return Outputs(jnp.zeros((3, 2)), {"stage1": jnp.zeros((3, 8, 8, 2)), "stage2": jnp.float32(feature)})


STUDENT, TEACHER = network(5, 0), network(8, 1)
METHOD = distiller.create("FT", weight=1.0, warmup_epochs=2)


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(METHOD.init)(jax.random.key(0), STUDENT, TEACHER, batch)


@pytest.fixture(scope="module")
def step(batch):
    """(variables, epoch) -> loss, terms, memory, gradients of the parts, gradient of the student."""

    @jax.jit
    def run(variables, epoch):
        def loss(params, student):
            there = {"params": params, "memory": variables["memory"]}
            at = batch.replace(epoch=epoch)
            (value, terms), memory = METHOD.apply(there, student, TEACHER, at, mutable=["memory"])
            return value, (terms, memory)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], STUDENT)

    return run


def normalised(x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_it_is_the_mean_absolute_difference_of_normalised_factors():
    student, teacher = RANDOM.standard_normal((2, 3, 4, 4, 6)).astype(np.float32)
    expected = np.abs(normalised(student) - normalised(teacher)).mean()
    np.testing.assert_allclose(factor_loss(student, teacher), expected, rtol=1e-5)
    large = RANDOM.standard_normal((3, 8, 8, 6)).astype(np.float32)
    expected = np.abs(normalised(large.reshape(3, 4, 2, 4, 2, 6).mean((2, 4))) - normalised(teacher)).mean()
    np.testing.assert_allclose(factor_loss(large, teacher), expected, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.booleans())
def test_it_does_not_see_the_scale_of_a_factor(one, other, pool_channels):
    student, teacher = np.random.RandomState(3).standard_normal((2, 3, 4, 4, 6)).astype(np.float32)
    found = factor_loss(np.float32(one) * student, np.float32(other) * teacher, pool_channels)
    np.testing.assert_allclose(found, factor_loss(student, teacher, pool_channels), rtol=1e-4)


def test_other_channels_are_named():
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 4, 4, 5\)"):
        factor_loss(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 5)))


def test_first_the_paraphraser_learns_alone_then_the_student_and_the_translator(step, variables):
    assert (METHOD.first_phase_epochs, METHOD.first_phase_learns) == (2, ("method",))
    learned = {"encoder": (True, False), "decoder": (True, False), "translator": (False, True)}
    for phase, epoch in enumerate((1.99, 2.0)):
        (loss, (terms, _)), (parts, student) = step(variables, jnp.float32(epoch))
        found = {name: any(np.any(g) for g in jax.tree.leaves(part)) for name, part in parts.items()}
        assert found == {name: moves[phase] for name, moves in learned.items()}
        assert any(np.any(g) for g in jax.tree.leaves(student.features)) is bool(phase)
        name, other = ("FT_paraphraser", "FT") if phase == 0 else ("FT", "FT_paraphraser")
        assert loss > 0
        assert terms[name] == loss
        assert terms[other] == 0


@pytest.mark.slow
def test_the_paraphraser_learns_to_rebuild_the_teachers_map(step, variables):
    def descend(variables, _):
        (loss, (_, memory)), (gradients, _) = step(variables, jnp.float32(0))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradients)
        return {"params": params, **memory}, loss

    now, losses = dict(variables), []
    for _ in range(60):
        now, loss = descend(now, None)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_target_is_the_encoder_as_the_first_phase_left_it(step, variables):
    """Whatever weight decay does to the encoder afterwards."""
    moved = jax.tree.map(lambda x: x + 0.1, variables["params"]["encoder"])
    later = {"params": {**variables["params"], "encoder": moved}, "memory": variables["memory"]}
    (first, (_, memory)), _ = step(later, jnp.float32(0))
    assert jax.tree.all(jax.tree.map(np.array_equal, memory["memory"]["kept_encoder"], moved))
    (second, (_, memory)), _ = step(later, jnp.float32(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, memory["memory"], variables["memory"]))
    (unmoved, _), _ = step(variables, jnp.float32(2))
    assert second == unmoved
    (other, _), _ = step({"params": later["params"], "memory": {"kept_encoder": moved}}, jnp.float32(2))
    assert abs(other - second) > 1e-4
    assert first != second


@pytest.mark.parametrize(("k", "width"), [(0.5, 4), (0.25, 2), (2.0, 16), (0.1, 1)])
def test_the_factor_has_k_times_the_teachers_channels(k, width, batch):
    method = distiller.create("FT", k=k)
    shapes = jax.eval_shape(method.init, jax.random.key(0), STUDENT, TEACHER, batch)["params"]
    ends = {name: shapes[name]["Conv_2"]["kernel"].shape[-1] for name in ("encoder", "decoder", "translator")}
    assert ends == {"encoder": width, "decoder": 8, "translator": width}


def test_a_factor_of_nothing_is_refused(batch):
    with pytest.raises(ValueError, match=r"k=0.01 .* 8 channels; give a larger k"):
        jax.jit(distiller.create("FT", k=0.01).init)(jax.random.key(0), STUDENT, TEACHER, batch)
