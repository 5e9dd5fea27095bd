"""Losses on explanation maps and their second-order gradients, as the methods' own reference code computed them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
import models
import pretrained
from distiller.cat_kd import class_map_loss
from distiller.maps import cosine_distance


def normal(seed, shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def cat_kd(student, teacher):
    return class_map_loss(student, teacher[..., : student.shape[-1]])  # the channels stand for classes


def e2kd(student, teacher):
    return jnp.mean(cosine_distance(*(jnp.mean(x, axis=-1)[:, None] for x in (student, teacher))))


@pytest.mark.parametrize(("method", "function"), [("CATKD_maps", cat_kd), ("E2KD_cosine", e2kd)])
def test_losses_of_given_maps_are_the_references(method, function, golden):
    (numbers,) = [c for c in golden("losses")["cases"] if c["method"] == method]
    seed = numbers["seed"]
    student, teacher = normal(seed + 13, (8, 8, 8, 64)), normal(seed + 23, (8, 8, 8, 256))
    loss = jax.jit(jax.value_and_grad(lambda s: function(jax.nn.relu(s), jax.nn.relu(teacher))))
    value, gradient = loss(student)
    np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
    expected = numbers["grads"]["student_feature_3"]
    np.testing.assert_allclose(np.linalg.norm(gradient), expected["l2"], rtol=1e-4)
    floor = 1e-4 * expected["l2"] / np.sqrt(gradient.size)
    np.testing.assert_allclose(gradient.reshape(-1)[:4], expected["first"], rtol=1e-4, atol=floor)


METHODS = {
    "E2KD": ("e2kd", {"resize": False}),
    "ExplanationMatch": ("e2kd", {"map": "GradCAM"}),
    "GradAT": ("grad_at", {"normalize": False, "weight": 1.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_the_losses_by_the_weights_are_the_references(name, golden, recipe):
    key, options = METHODS[name]
    numbers = golden("explanations")["second_order"]["resnet56->resnet20"]
    teacher_model, teacher_variables, images = recipe("cifar/resnet56", "ResNet56")
    model, variables, _ = recipe("cifar/resnet20", "ResNet20")
    method = distiller.create(name, **options)
    label = jnp.array([3, 42], jnp.int32)
    batch = data.Batch(jnp.asarray(images), label, jnp.arange(2, dtype=jnp.int32), jnp.float32(0))
    answer = functools.partial(models.forward, gradient_taps=method.gradient_taps)
    taught = jax.jit(lambda v: answer(teacher_model, v, images)[0])(teacher_variables)

    def loss(params):
        student, _ = answer(model, {**variables, "params": params}, images)
        terms = method.apply({}, student, taught, batch)[1]
        return terms.get("E2KD_maps", terms.get(name))

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, numbers[f"{key}_loss"], rtol=1e-3)
    named = pretrained.to_torch(model, {"params": gradient})
    assert len(numbers[f"{key}_grads"]) == 22
    for torch_name, norm in numbers[f"{key}_grads"].items():
        np.testing.assert_allclose(np.linalg.norm(named[torch_name]), norm, rtol=1e-3, err_msg=torch_name)
