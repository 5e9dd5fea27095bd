import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.at import attention_loss, attention_map
from models import Outputs

FEATURE = jnp.asarray(np.random.RandomState(0).standard_normal((3, 4, 5, 6)), jnp.float32)
OTHER = jnp.asarray(np.random.RandomState(1).standard_normal((3, 4, 5, 2)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 4])
def test_a_map_is_numpys_and_has_unit_length(p):
    plain = (np.abs(np.asarray(FEATURE, np.float64)) ** p).mean(-1).reshape(3, 20)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(attention_map(FEATURE, p), plain, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(attention_map(FEATURE, p), axis=1), 1, rtol=1e-6)


def test_a_map_sees_neither_scale_nor_order_nor_sign_of_the_channels():
    expected = attention_map(FEATURE)
    np.testing.assert_allclose(attention_map(-7.0 * FEATURE[..., ::-1]), expected, rtol=1e-5)


def test_channels_may_differ():
    loss = attention_loss(FEATURE, OTHER)
    expected = np.mean((np.asarray(attention_map(FEATURE)) - np.asarray(attention_map(OTHER))) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert loss > 1e-3


@pytest.mark.slow
def test_a_map_of_nothing_is_zero_with_a_finite_gradient():
    zero = jnp.zeros((1, 4, 4, 3))
    assert not np.any(attention_map(zero))
    gradient = jax.grad(lambda x: attention_loss(x, jnp.ones((1, 4, 4, 2))))(zero)
    assert np.isfinite(gradient).all()


def test_tiny_activations_still_have_a_unit_map():
    np.testing.assert_allclose(np.linalg.norm(attention_map(1e-3 * FEATURE), axis=1), 1, rtol=1e-4)


def test_networks_without_stages_are_refused_by_role(batch):
    with_stage = Outputs(jnp.zeros((3, 2)), {"stage1": FEATURE})
    bare = Outputs(jnp.zeros((3, 2)), {})
    with pytest.raises(ValueError, match=r"The teacher has no taps stage1.*logits only"):
        distiller.create("AT").apply({}, with_stage, bare, batch)
    with pytest.raises(ValueError, match="The student has no taps stage1"):
        distiller.create("AT").apply({}, bare, with_stage, batch)


def test_every_stage_counts_once(batch):
    student = Outputs(jnp.zeros((3, 2)), {"stage1": FEATURE, "stage2": OTHER, "stage2_preact": FEATURE * 5})
    teacher = Outputs(jnp.zeros((3, 2)), {"stage1": OTHER, "stage2": FEATURE})
    loss, _ = distiller.create("AT", weight=1.0).apply({}, student, teacher, batch)
    np.testing.assert_allclose(loss, attention_loss(FEATURE, OTHER) + attention_loss(OTHER, FEATURE), rtol=1e-6)
