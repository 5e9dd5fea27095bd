import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
import models


class Linear(nn.Module):
    """Logits that are linear in the image."""

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        tap = models.Taps(deltas)
        x = tap.shift("input", images).reshape(images.shape[0], -1)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], 2))
        return models.Outputs(logits=x @ kernel, features={})


@pytest.fixture(scope="module")
def linear():
    images = np.random.RandomState(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    model, target = Linear(), np.array([0, 1], np.int32)
    variables = model.init(jax.random.key(0), images)
    kernel = np.asarray(variables["params"]["kernel"]).T.reshape(2, 4, 4, 3)[target]
    return (model, variables, images, target), kernel


def test_maps_of_a_linear_network_are_its_weights(linear):
    arguments, kernel = linear
    images = arguments[2]
    expected = {
        ("InputGradient", "max"): np.abs(kernel).max(-1),
        ("InputGradient", "sum"): np.abs(kernel).sum(-1),
        ("InputGradient", "l2"): np.linalg.norm(kernel, axis=-1),
        ("SmoothGrad", "sum"): np.abs(kernel).sum(-1),
    }
    for (name, reduce), value in expected.items():
        np.testing.assert_allclose(explain.create(name, reduce=reduce)(*arguments), value, rtol=1e-5)
    product = (kernel * images).sum(-1)
    for name in ("GradientTimesInput", "IntegratedGradients"):
        np.testing.assert_allclose(explain.create(name)(*arguments), product, rtol=1e-4, atol=1e-5)
    other = explain.create("IntegratedGradients", baseline=0.5)(*arguments)
    np.testing.assert_allclose(other, (kernel * (images - 0.5)).sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_input_gradient_is_jax_grads(network):
    thing = network("CNN")

    @jax.jit
    def gradient(images):
        return jax.grad(lambda x: jnp.sum(thing.model.apply(thing.variables, x).logits[jnp.arange(3), thing.target]))(
            images
        )

    expected = np.abs(gradient(thing.images)).max(-1)
    found = explain.create("InputGradient")(thing.model, thing.variables, thing.images, thing.target)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "baseline", "tolerance"), [("ViT", 0.0, 2e-3), ("ResNet8", 1.0, 3e-2)])
def test_integrated_gradients_are_complete(name, baseline, tolerance, network):
    thing = network(name)
    logits = jax.jit(lambda x: thing.model.apply(thing.variables, x).logits[jnp.arange(3), thing.target])
    rise = logits(thing.images) - logits(jnp.full_like(thing.images, baseline))
    shown = explain.create("IntegratedGradients", steps=48, per_pass=48, baseline=baseline)
    total = jnp.sum(shown(thing.model, thing.variables, thing.images, thing.target), axis=(1, 2))
    assert np.abs(rise).max() > 0.1
    np.testing.assert_allclose(total, rise, atol=tolerance * np.abs(rise).max())


@pytest.mark.slow
def test_smoothgrad_without_noise_is_the_input_gradient_and_with_it_is_smoother(network):
    thing = network("CNN")
    arguments = thing.model, thing.variables, thing.images, thing.target
    plain = np.asarray(explain.create("InputGradient")(*arguments))
    still = explain.create("SmoothGrad", noise=0.0, samples=3)(*arguments)
    np.testing.assert_allclose(still, plain, rtol=1e-4, atol=1e-5 * plain.max())
    noisy = [explain.create("SmoothGrad", seed=seed)(*arguments) for seed in (0, 1)]
    assert np.abs(noisy[0] - plain).max() > 0.05 * plain.max()
    single = explain.create("SmoothGrad", samples=1)(*arguments)
    assert np.linalg.norm(noisy[0] - noisy[1]) < 0.5 * np.linalg.norm(single - noisy[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SmoothGrad", "IntegratedGradients"])
def test_how_many_go_through_together_changes_nothing(name, network):
    thing = network("CNN")
    arguments = thing.model, thing.variables, thing.images, thing.target
    count = {"SmoothGrad": {"samples": 5}, "IntegratedGradients": {"steps": 5}}[name]
    whole, parts = (explain.create(name, per_pass=n, **count)(*arguments) for n in (5, 2))
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
