import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
import models
from explain.base import patches, token_grid
from explain.cam import grad_cam, grad_cam_plus_plus, layer_cam


@pytest.mark.parametrize(("name", "tap"), [("CNN", ""), ("ResNet8", ""), ("WRN_16_1", "final"), ("VGG8", "")])
def test_cam_is_gradcam_at_the_pooled_map(name, tap, network):
    thing = network(name)

    @jax.jit
    def run(variables, images, target):
        outputs, _ = models.forward(thing.model, variables, images, gradient_taps=(tap or models.LAST_MAP,))
        rules = {
            relu: (explain.create("CAM", relu=relu), explain.create("GradCAM", tap=tap, relu=relu))
            for relu in (True, False)
        }
        return {relu: [rule.of(outputs, target) for rule in pair] for relu, pair in rules.items()}

    for relu, (cam, found) in run(thing.variables, thing.images, thing.target).items():
        np.testing.assert_allclose(found, cam, rtol=1e-5, atol=1e-5 * np.abs(cam).max())
        if name == "CNN":
            assert (np.asarray(cam) < 0).any() == (not relu)


def test_a_class_map_sums_to_the_logit_less_its_bias(network):
    thing, shown = network("CNN"), explain.create("CAM", relu=False)
    outputs = thing.outputs()
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


@pytest.mark.parametrize("name", ["ResNet20", pytest.param("VGG8", marks=pytest.mark.slow)])
def test_gradcam_is_the_references(name, golden, recipe):
    numbers = golden("explanations")["maps"][name.lower()]
    model, variables, images = recipe(f"cifar/{name.lower()}", name)
    taps = [key.removeprefix("gradcam_") for key in numbers if key.startswith("gradcam_stage")]

    @jax.jit
    def run(variables):
        outputs, _ = models.forward(model, variables, images, gradient_taps=tuple(taps))
        predicted = jnp.argmax(outputs.logits, axis=1)
        return predicted, *(explain.create("GradCAM", tap=tap).of(outputs, predicted) for tap in [*taps, ""])

    predicted, *maps, default = map(np.asarray, run(variables))
    assert predicted.tolist() == numbers["predicted"]
    np.testing.assert_array_equal(default, maps[taps.index(max(taps))])
    for tap, found in zip(taps, maps, strict=True):
        expected = numbers[f"gradcam_{tap}"]
        assert list(found.shape) == expected["shape"]
        np.testing.assert_allclose(np.linalg.norm(found), expected["l2"], rtol=1e-4)
        floor = 1e-4 * expected["l2"] / np.sqrt(found.size)
        np.testing.assert_allclose(found.reshape(-1)[:6], expected["first"], rtol=1e-4, atol=floor)


def test_a_transformers_map_is_at_a_stage_whose_patches_are_read(network):
    thing, names = network("ViT"), ("GradCAM", "GradCAM++", "LayerCAM")

    @jax.jit
    def run(variables, images, target):
        outputs, _ = models.forward(thing.model, variables, images, gradient_taps=(models.LAST_MAP, "stage2"))
        default, last = ([explain.create(n, relu=False, tap=tap) for n in names] for tap in ("", "stage2"))
        return [[rule.of(outputs, target) for rule in rules] for rules in (default, last)]

    default, last = run(thing.variables, thing.images, thing.target)
    assert all(np.abs(found).max() > 1e-5 for found in default)
    assert not np.any(last)  # behind the last block only the class token counts


def test_tokens_make_a_grid_in_the_images_shape():
    def of(height, width):
        return models.Outputs(jnp.zeros((1, 2)), {}, source=models.Source(None, {}, jnp.zeros((1, height, width, 3))))

    assert token_grid(16, models.Outputs(jnp.zeros((1, 2)), {})) == (0, (4, 4))
    assert token_grid(17, of(32, 32)) == (1, (4, 4))
    assert token_grid(18, of(8, 8)) == (2, (4, 4))
    assert token_grid(9, of(16, 32)) == (1, (2, 4))
    with pytest.raises(ValueError, match="12 tokens are no grid with the proportions 8 x 8"):
        token_grid(12, of(8, 8))


def test_the_first_tokens_are_no_patches():
    tokens = jnp.arange(17.0)[None, :, None]
    outputs = models.Outputs(jnp.zeros((1, 2)), {})
    np.testing.assert_array_equal(patches(tokens, outputs)[0, ..., 0], np.arange(1, 17).reshape(4, 4))
