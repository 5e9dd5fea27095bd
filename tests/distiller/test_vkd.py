import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distiller
from distiller.vkd import layer_normalised, orthogonal, projection_loss, whitened
from models import Outputs


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 10), st.sampled_from([(3, 5), (5, 3), (4, 4), (1, 4)]))
def test_the_projection_is_orthogonal_for_any_weight(seed, size, shape):
    n = max(shape)
    weight = jnp.asarray(size * np.random.RandomState(seed).standard_normal((n, n)), jnp.float32)
    found = np.asarray(orthogonal(weight, *shape), np.float64)
    assert found.shape == shape
    gram = found @ found.T if shape[0] <= shape[1] else found.T @ found
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-4)


def test_it_is_cayleys_map_in_numpy():
    weight = np.random.RandomState(0).standard_normal((5, 5))
    skew = weight - weight.T
    rotation = np.linalg.inv(np.eye(5) + skew) @ (np.eye(5) - skew)
    weight = jnp.asarray(weight, jnp.float32)
    np.testing.assert_allclose(orthogonal(weight, 5, 3), rotation[:, :3], atol=1e-5)
    np.testing.assert_allclose(orthogonal(weight, 3, 5), rotation[:, :3].T, atol=1e-5)


def test_training_reaches_a_rotation_that_the_features_differ_by():
    random = np.random.RandomState(0)
    rotation, _ = np.linalg.qr(random.standard_normal((4, 4)))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    student = jnp.asarray(random.standard_normal((64, 4)), jnp.float32)
    target = student @ jnp.asarray(rotation, jnp.float32)
    slope = jax.jit(jax.value_and_grad(lambda w: projection_loss(student, target, orthogonal(w, 4, 4))))
    weight = jnp.asarray(0.1 * random.standard_normal((4, 4)), jnp.float32)
    first = slope(weight)[0]
    for _ in range(200):
        loss, gradient = slope(weight)
        weight = weight - 0.5 * gradient
    assert loss < 1e-2 * first


@pytest.mark.slow
def test_normalisations_are_numpys():
    x = np.random.RandomState(0).standard_normal((50, 4)) @ np.random.RandomState(1).standard_normal((4, 4)) + 3
    rows = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer_normalised(jnp.asarray(x, jnp.float32)), rows, rtol=1e-3, atol=1e-4)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    plain = (x - x.mean(0)) @ vectors @ np.diag((values + 1e-5) ** -0.5) @ vectors.T
    found = np.asarray(whitened(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(4), atol=1e-3)


@pytest.mark.slow
def test_whitening_a_batch_smaller_than_its_width_or_of_equal_rows_is_finite():
    few = whitened(jnp.asarray(np.random.RandomState(0).standard_normal((3, 8)), jnp.float32))
    assert np.isfinite(few).all()
    np.testing.assert_allclose(np.linalg.norm(few), np.sqrt(3 * 2), rtol=1e-3)  # two directions are left of three rows
    assert np.abs(whitened(jnp.ones((3, 8)))).max() < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("whiten", [False, True])
def test_tokens_of_patches_are_pooled_and_the_teacher_is_normalised(whiten, batch):
    random = np.random.RandomState(0)
    tokens, stage = (jnp.asarray(random.standard_normal(s), jnp.float32) for s in ((6, 5, 3), (6, 2, 2, 7)))
    student, teacher = Outputs(jnp.zeros((6, 2)), {"stage1": tokens}), Outputs(jnp.zeros((6, 2)), {"stage1": stage})
    method = distiller.create("VkD", whiten=whiten)
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    projection = orthogonal(variables["params"]["weight_matrix"], 3, 7)
    target = (whitened if whiten else layer_normalised)(stage.mean((1, 2)))
    expected = projection_loss(tokens[:, 1:].mean(1), target, projection)  # without the class token
    np.testing.assert_allclose(method.apply(variables, student, teacher, batch)[0], expected, rtol=1e-5)
