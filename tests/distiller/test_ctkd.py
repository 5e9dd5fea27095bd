import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.ctkd import curriculum, reverse_gradient
from distiller.soft_logits import kl_divergence
from models import Outputs

S, T = (jnp.float32(x) for x in np.random.RandomState(0).standard_normal((2, 6, 5)) * 3)
STUDENT, TEACHER = Outputs(S, {}), Outputs(T, {})


def init(method, batch):
    return method.init({"params": jax.random.key(0)}, STUDENT, TEACHER, batch)


@pytest.mark.slow
def test_reversal_changes_the_gradient_only():
    x = jnp.array([1.0, -2.0])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(jnp.exp(reverse_gradient(x, jnp.float32(0.25)))))(x)
    np.testing.assert_array_equal(reverse_gradient(x, jnp.float32(0.25)), x)
    np.testing.assert_allclose(value, np.exp([1.0, -2.0]).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, -0.25 * np.exp([1.0, -2.0]), rtol=1e-6)


def test_the_cosine_curriculum_is_the_released_codes():
    """-CosineDecay(max_value=0, min_value=-1, num_loops=10).get_value(epoch), epochs from 1."""
    found = [float(curriculum(jnp.float32(epoch), 10)) for epoch in (0, 1, 4.7, 9, 100)]
    expected = [0.5 * (1 - np.cos(np.pi * i / 10)) for i in (1, 2, 5, 10, 10)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_linear_curriculum_ends_at_one():
    found = [float(curriculum(jnp.float32(epoch), 4, "linear")) for epoch in (0, 1.5, 3, 7)]
    np.testing.assert_allclose(found, [0.25, 0.5, 1, 1])


@pytest.mark.slow
def test_it_is_kd_at_the_learned_temperature(batch):
    method = distiller.create("CTKD", weight=0.7)
    variables = init(method, batch)
    temperature = 1 + 20 / (1 + np.exp(-1.0))
    loss, _ = method.apply(variables, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(loss, 0.7 * kl_divergence(S, T, temperature), rtol=1e-5)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"theta": ()}}


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0.0, 4.0, 9.0])
def test_theta_climbs_and_the_student_descends(epoch, batch):
    method = distiller.create("CTKD", weight=1.0)
    batch = batch.replace(epoch=jnp.float32(epoch))

    def plain(theta, logits):
        return kl_divergence(logits, T, 1.0 + 20.0 * jax.nn.sigmoid(theta))

    def loss(theta, logits):
        return method.apply({"params": {"theta": theta}}, STUDENT.replace(logits=logits), TEACHER, batch)[0]

    theta = jnp.float32(0.3)
    by_theta, by_student = jax.grad(loss, argnums=(0, 1))(theta, S)
    expected = jax.grad(plain, argnums=(0, 1))(theta, S)
    strength = 0.5 * (1 - np.cos(np.pi * (epoch + 1) / 10))
    assert abs(expected[0]) > 1e-3
    np.testing.assert_allclose(by_theta, -strength * expected[0], rtol=1e-4)
    np.testing.assert_allclose(by_student, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_an_instance_has_its_own_temperature(batch):
    method = distiller.create("CTKD", instance=True, hidden=8, weight=1.0)
    variables = init(method, batch)
    start, _ = method.apply(variables, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(start, kl_divergence(S, T, 11.0), rtol=1e-5)  # a zero start: 1 + 20 / 2
    random = np.random.RandomState(3)
    params = jax.tree.map(lambda x: jnp.float32(random.standard_normal(x.shape)), variables["params"])
    x = jnp.concatenate([jax.nn.softmax(T), jax.nn.softmax(S)], axis=1)
    x = jax.nn.relu(x @ params["hidden_layer"]["kernel"] + params["hidden_layer"]["bias"])
    theta = x @ params["theta_layer"]["kernel"] + params["theta_layer"]["bias"]
    temperature = 1.0 + 20.0 * jax.nn.sigmoid(theta)
    assert np.ptp(temperature) > 0.1
    found, _ = method.apply({"params": params}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, kl_divergence(S, T, temperature), rtol=1e-5)


@pytest.mark.slow
def test_the_student_does_not_learn_to_move_its_temperature(batch):
    """The gradient by the student is KD's at a fixed temperature: the perceptron's inputs are cut off."""
    method = distiller.create("CTKD", instance=True, hidden=8, weight=1.0)
    random = np.random.RandomState(3)
    params = jax.tree.map(lambda x: jnp.float32(random.standard_normal(x.shape)), init(method, batch)["params"])
    batch = batch.replace(epoch=jnp.float32(20))
    found = jax.grad(lambda z: method.apply({"params": params}, STUDENT.replace(logits=z), TEACHER, batch)[0])(S)
    x = jnp.concatenate([jax.nn.softmax(T), jax.nn.softmax(S)], axis=1)
    x = jax.nn.relu(x @ params["hidden_layer"]["kernel"] + params["hidden_layer"]["bias"])
    temperature = 1.0 + 20.0 * jax.nn.sigmoid(x @ params["theta_layer"]["kernel"] + params["theta_layer"]["bias"])
    np.testing.assert_allclose(found, jax.grad(kl_divergence)(S, T, temperature), rtol=1e-4, atol=1e-6)
