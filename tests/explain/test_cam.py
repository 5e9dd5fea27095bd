import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
import models
from explain.base import patches, token_grid
from explain.cam import grad_cam, grad_cam_plus_plus, layer_cam


def outputs_of(thing, shown):
    run = jax.jit(lambda v, x: models.forward(thing.model, v, x, gradient_taps=shown.gradient_taps)[0])
    return run(thing.variables, thing.images)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("name", "tap"), [("ResNet8", ""), ("CNN", ""), ("WRN_16_1", "final"), ("VGG8", "")])
def test_cam_is_gradcam_at_the_pooled_map(name, tap, relu, network):
    thing = network(name)
    arguments = thing.model, thing.variables, thing.images, thing.target
    cam = np.asarray(explain.create("CAM", relu=relu)(*arguments))
    found = explain.create("GradCAM", tap=tap, relu=relu)(*arguments)
    np.testing.assert_allclose(found, cam, rtol=1e-5, atol=1e-5 * np.abs(cam).max())
    if name == "ResNet8":
        assert (cam < 0).any() == (not relu)


def test_a_class_map_sums_to_the_logit_less_its_bias(network):
    thing, shown = network("ResNet8"), explain.create("CAM", relu=False)
    outputs = outputs_of(thing, shown)
    bias = thing.variables["params"]["classifier"]["bias"]
    expected = np.asarray(outputs.logits - bias)[np.arange(3), thing.target]
    assert np.abs(bias).max() > 0.1
    np.testing.assert_allclose(jnp.sum(shown.of(outputs, thing.target), axis=(1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_the_rules_are_numpys():
    random = np.random.RandomState(0)
    a, g = np.abs(random.standard_normal((2, 3, 4, 5))), random.standard_normal((2, 3, 4, 5))
    found = [np.asarray(rule(jnp.asarray(a), jnp.asarray(g))) for rule in (grad_cam, layer_cam, grad_cam_plus_plus)]
    for b in range(2):
        for h in range(3):
            for w in range(4):
                plain, local, plus = 0.0, 0.0, 0.0
                for c in range(5):
                    plain += a[b, h, w, c] * g[b, :, :, c].mean()
                    local += a[b, h, w, c] * max(g[b, h, w, c], 0)
                    square, cube = g[b, :, :, c] ** 2, g[b, :, :, c] ** 3
                    share = square / (2 * square + cube * a[b, :, :, c].sum())
                    plus += a[b, h, w, c] * np.sum(share * np.maximum(g[b, :, :, c], 0))
                np.testing.assert_allclose([x[b, h, w] for x in found], [plain, local, plus], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ResNet20", "VGG8"])
def test_gradcam_is_the_references(name, golden, recipe):
    numbers = golden("explanations")["maps"][name.lower()]
    model, variables, images = recipe(f"cifar/{name.lower()}", name)
    predicted = explain.predicted(model, variables, images)
    assert predicted.tolist() == numbers["predicted"]
    taps = [key.removeprefix("gradcam_") for key in numbers if key.startswith("gradcam_stage")]
    for tap in taps:
        shown, expected = explain.create("GradCAM", tap=tap), numbers[f"gradcam_{tap}"]

        @functools.partial(jax.jit, static_argnums=2)
        def run(variables, target, shown):
            return shown.of(models.forward(model, variables, images, gradient_taps=shown.gradient_taps)[0], target)

        found = np.asarray(run(variables, predicted, shown))
        assert list(found.shape) == expected["shape"]
        np.testing.assert_allclose(np.linalg.norm(found), expected["l2"], rtol=1e-4)
        floor = 1e-4 * expected["l2"] / np.sqrt(found.size)
        np.testing.assert_allclose(found.reshape(-1)[:6], expected["first"], rtol=1e-4, atol=floor)
        if tap == max(taps):
            np.testing.assert_array_equal(run(variables, predicted, explain.create("GradCAM")), found)


@pytest.mark.parametrize("name", ["GradCAM", "GradCAM++", "LayerCAM"])
def test_a_transformers_map_is_at_a_stage_whose_patches_are_read(name, network):
    thing = network("ViT")
    found = explain.create(name, relu=False)(thing.model, thing.variables, thing.images, thing.target)
    assert np.abs(found).max() > 1e-5
    last = explain.create(name, relu=False, tap="stage3")(thing.model, thing.variables, thing.images, thing.target)
    assert not np.any(last)  # behind the last block only the class token counts


def test_tokens_make_a_grid_in_the_images_shape():
    assert token_grid(16) == (0, (4, 4))
    assert token_grid(17, (32, 32)) == (1, (4, 4))
    assert token_grid(18, (8, 8)) == (2, (4, 4))
    assert token_grid(9, (16, 32)) == (1, (2, 4))
    with pytest.raises(ValueError, match="12 tokens make no grid in the shape of 8 x 8"):
        token_grid(12, (8, 8))


def test_the_first_tokens_are_no_patches():
    tokens = jnp.arange(17.0)[None, :, None]
    outputs = models.Outputs(jnp.zeros((1, 2)), {})
    np.testing.assert_array_equal(patches(tokens, outputs)[0, ..., 0], np.arange(1, 17).reshape(4, 4))
