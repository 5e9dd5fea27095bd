"""What every map promises."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
import models
from registry import UserError, summary

SMALL = {"SmoothGrad": {"samples": 3}, "IntegratedGradients": {"steps": 3}, "RISE": {"samples": 8, "grid": 3}}
OF_ATTENTION = ("RawAttention", "AttentionRollout", "RelevancePropagation")
CLASSLESS = ("RawAttention", "AttentionRollout")
every = pytest.mark.parametrize("name", explain.names())


def rule(name):
    return explain.create(name, **SMALL.get(name, {}))


@pytest.fixture
def on(network):
    """Map's name -> the network it is tested on."""
    return lambda name: network("ViT" if name in OF_ATTENTION else "CNN")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@every
def test_a_batch_is_a_map_over_its_images(name, on):
    thing = on(name)
    show = functools.partial(rule(name), thing.model, thing.variables)
    found = show(thing.images, thing.target)
    assert found.shape == thing.images.shape[:3]
    assert found.dtype == jnp.float32
    assert np.isfinite(found).all()
    assert np.std(found) > 0
    mapped = jax.jit(jax.vmap(lambda image, target: show(image[None], target[None])[0]))
    close(mapped(thing.images, thing.target), found)


@every
def test_a_map_is_of_its_class(name, on):
    thing = on(name)
    show = functools.partial(rule(name), thing.model, thing.variables, thing.images)
    one, other = show(thing.target), show((thing.target + 2) % 5)
    if name in CLASSLESS:
        np.testing.assert_array_equal(one, other)
    else:
        assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


@pytest.mark.slow
@every
def test_a_map_can_be_taught(name, on):
    thing, shown = on(name), rule(name)

    @jax.jit
    def gradient(params):
        def size(params):
            variables = {**thing.variables, "params": params}
            outputs, _ = models.forward(thing.model, variables, thing.images, gradient_taps=shown.gradient_taps)
            return jnp.sum(jnp.square(shown.of(outputs, jnp.asarray(thing.target))))

        return jax.grad(size)(params)

    slopes = jax.tree.leaves(gradient(thing.variables["params"]))
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert max(np.abs(slope).max() for slope in slopes) > 0


@every
def test_equal_rules_are_one_program(name, on):
    thing, one, same = on(name), rule(name), rule(name)
    assert one == same
    assert hash(one) == hash(same)
    before = explain.base._run._cache_size()
    for shown in (one, same, same):
        shown(thing.model, thing.variables, thing.images, thing.target)
    assert explain.base._run._cache_size() <= before + 1


@every
def test_the_docstring_says_what_and_where_from(name):
    line, paper = summary(explain.registry.get(name))
    assert 20 < len(line) < 120
    assert line.endswith(".")
    assert paper
    assert "arXiv" in inspect.getdoc(inspect.getmodule(explain.registry.get(name)))


def test_predicted_is_the_first_of_the_likeliest(network):
    thing = network("CNN")
    logits = thing.outputs().logits
    best = explain.top_k(thing.model, thing.variables, thing.images, 3)
    np.testing.assert_array_equal(best, np.argsort(-logits, axis=1)[:, :3])
    first = explain.predicted(thing.model, thing.variables, thing.images)
    np.testing.assert_array_equal(first, np.argmax(logits, axis=1))
    assert (best.dtype, first.dtype) == (jnp.int32, jnp.int32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GradCam", {}, "Did you mean 'GradCAM'"),
        (3, {}, "name of a map is text"),
        ("GradCAM", {"tab": "stage1"}, "Did you mean 'tap'"),
        ("CAM", {"tap": "stage1"}, "Unknown option of CAM 'tap'"),
        ("GradCAM", {"tap": 3}, "'tap' of GradCAM has the type of its default ''; got 3"),
        ("GradCAM", {"relu": 1}, "'relu' of GradCAM"),
        ("SmoothGrad", {"samples": 2.5}, "'samples' of SmoothGrad"),
        ("SmoothGrad", {"samples": True}, "'samples' of SmoothGrad"),
        ("SmoothGrad", {"samples": 0}, "'samples' of SmoothGrad must be above 0; got 0"),
        ("SmoothGrad", {"noise": float("nan")}, "finite"),
        ("SmoothGrad", {"reduce": "mean"}, "'reduce' must be one of max, sum, l2"),
        ("IntegratedGradients", {"steps": -1}, "above 0"),
        ("RISE", {"keep": 1.0}, "between 0 and 1; got 1.0"),
    ],
)
def test_mistakes_are_refused_with_the_fix(name, options, message):
    with pytest.raises(UserError, match=message):
        explain.create(name, **options)


def test_inputs_of_another_shape_are_refused(network):
    thing, shown = network("ResNet8"), explain.create("GradCAM")
    with pytest.raises(ValueError, match=r"3 images need \(3,\) integer classes; got \(2,\) int32"):
        shown(thing.model, thing.variables, thing.images, thing.target[:2])
    with pytest.raises(ValueError, match=r"got .*float32"):
        shown(thing.model, thing.variables, thing.images, thing.target.astype(np.float32))
    with pytest.raises(ValueError, match=r"the shape \[B, H, W, C\]; got the shape \(8, 8, 3\)"):
        shown(thing.model, thing.variables, thing.images[0], thing.target)


@pytest.mark.parametrize(
    ("name", "kind", "options", "message"),
    [
        ("CAM", "ViT", {}, "need a tap `final`.*\nTake GradCAM"),
        ("RawAttention", "ResNet8", {}, "no attention"),
        ("RelevancePropagation", "ResNet8", {}, "no attention"),
        ("GradCAM", "ResNet8", {"tap": "stage7"}, "no tap .*stage7"),
        ("GradCAM", "ResNet8", {"tap": "embedding"}, "'embedding' is no feature map"),
    ],
)
def test_a_network_without_what_a_map_reads_is_refused(name, kind, options, message, network):
    thing = network(kind)
    with pytest.raises(ValueError, match=message):
        explain.create(name, **options)(thing.model, thing.variables, thing.images, thing.target)
