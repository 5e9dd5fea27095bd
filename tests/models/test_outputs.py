import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import pretrained


class Smooth(nn.Module):
    """Two smooth layers without a cast, so that derivatives can be checked by differences in float64."""

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        tap = models.Taps(deltas)
        x = tap.shift("input", images).reshape(images.shape[0], -1)
        x = tap("stage1", jnp.tanh(x @ self.param("first", nn.initializers.normal(1.0), (4, 3), images.dtype)))
        logits = x @ self.param("second", nn.initializers.normal(1.0), (3, 2), images.dtype)
        return models.Outputs(logits=logits**2, features=tap.features)


class BareLogits(nn.Module):
    """A network that knows nothing of this library."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3)(images.reshape(images.shape[0], -1))


@pytest.fixture(scope="module")
def tapped(tiny):
    """Outputs of the tiny network with gradients at the input, one stage and the embedding."""
    run = jax.jit(
        lambda v, x: models.forward(tiny.model, v, x, gradient_taps=("input", "stage2", "stage3", "embedding"))[0]
    )
    return run(tiny.variables, tiny.images)


def one_hot(labels, classes=10):
    return jax.nn.one_hot(jnp.asarray(labels), classes)


def test_outputs_need_only_logits_and_features():
    outputs = models.Outputs(jnp.zeros((2, 3)), {"embedding": jnp.zeros((2, 4))})
    assert len(jax.tree.leaves(outputs)) == 2
    with pytest.raises(ValueError, match="gradient_taps"):
        outputs.gradients(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="classifier"):
        outputs.classify(jnp.zeros((2, 4)))


def test_stages_are_in_depth_order_whatever_the_order_of_the_names():
    features = {f"stage{n}": n for n in (10, 2, 1)} | {"stage1_preact": -1, "stem": 0, "embedding": 11}
    assert models.stages(features) == [1, 2, 10]
    assert models.stages(features, "_preact") == [-1]


def test_taps_add_a_delta_where_one_is_given():
    tap = models.Taps({"b": jnp.full(2, 10.0)})
    assert tap("a", jnp.ones(2)).tolist() == [1.0, 1.0]
    assert tap("b", jnp.ones(2)).tolist() == [11.0, 11.0]
    assert tap.shift("c", jnp.ones(2)).tolist() == [1.0, 1.0]
    assert list(tap.features) == ["a", "b"]
    assert tap.features["b"].tolist() == [11.0, 11.0]


def test_gradient_taps_change_no_output(tiny, tapped):
    plain = tiny.evaluate(tiny.variables, tiny.images)
    np.testing.assert_allclose(tapped.logits, plain.logits, rtol=1e-5, atol=1e-6)
    assert list(tapped.features) == list(plain.features)


@pytest.mark.slow
def test_gradients_at_the_input_are_jax_grads(tiny, tapped):
    classes = one_hot([3, 1, 4, 1, 5, 9])
    expected = jax.jit(jax.grad(lambda x: jnp.sum(classes * tiny.evaluate(tiny.variables, x).logits)))(tiny.images)
    found = tapped.gradients(classes)["input"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


def test_gradients_at_the_embedding_are_the_classifiers_rows(tiny, tapped):
    found = tapped.gradients(one_hot([3, 1, 4, 1, 5, 9]))["embedding"]
    kernel = tiny.variables["params"]["classifier"]["kernel"]
    np.testing.assert_allclose(found, kernel.T[jnp.array([3, 1, 4, 1, 5, 9])], rtol=1e-6)


def test_gradients_at_the_last_stage_are_the_classifiers_rows_spread_over_the_positions(tiny, tapped):
    found = tapped.gradients(one_hot([0] * 6))["stage3"]  # global average pooling follows it
    row = np.asarray(tiny.variables["params"]["classifier"]["kernel"])[:, 0] / 4
    np.testing.assert_allclose(found, np.broadcast_to(row, (6, 2, 2, 64)), rtol=1e-5)


def test_gradients_at_a_stage_predict_what_a_change_of_it_does(tiny, tapped):
    cotangent = jax.random.normal(jax.random.key(2), (6, 10))
    direction = jax.random.normal(jax.random.key(3), tapped.features["stage2"].shape)

    @jax.jit
    def moved(size):
        outputs = tiny.model.apply(tiny.variables, tiny.images, deltas={"stage2": size * direction})
        return jnp.sum(cotangent * outputs.logits)

    _, expected = jax.jvp(moved, (0.0,), (1.0,))
    found = jnp.sum(tapped.gradients(cotangent)["stage2"] * direction)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradients_are_linear_in_the_cotangent(tapped):
    a, b = jax.random.normal(jax.random.key(2), (2, 6, 10))
    pull = jax.jit(lambda outputs, cotangent: outputs.gradients(cotangent)["stage2"])
    left = pull(tapped, a + 2.0 * b)
    right = pull(tapped, a) + 2.0 * pull(tapped, b)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_gradients_can_be_differentiated_by_the_parameters():
    with jax.enable_x64(True):
        model, random = Smooth(), np.random.RandomState(0)
        images = jnp.asarray(random.standard_normal((5, 2, 2, 1)))
        cotangent = jnp.asarray(random.standard_normal((5, 2)))
        params = model.init(jax.random.key(0), images)["params"]
        assert jax.tree.leaves(params)[0].dtype == jnp.float64

        @jax.jit
        def loss(params):
            outputs, _ = models.forward(model, {"params": params}, images, gradient_taps=("input", "stage1"))
            found = outputs.gradients(cotangent)
            return jnp.sum(found["input"] ** 2) + jnp.sum(jnp.sin(found["stage1"]) * outputs.features["stage1"])

        gradient = jax.grad(loss)(params)
        direction = jax.tree.map(lambda p: jnp.asarray(random.standard_normal(p.shape)), params)

        def at(size):
            return loss(jax.tree.map(lambda p, d: p + size * d, params, direction))

        difference = (at(1e-5) - at(-1e-5)) / 2e-5
        product = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert abs(float(difference)) > 1e-2
        np.testing.assert_allclose(product, difference, rtol=1e-7)


def test_gradients_in_training_mode_keep_the_statistics_of_one_pass(tiny):
    _, plain = tiny.train(tiny.variables, tiny.images)
    run = jax.jit(lambda v, x: models.forward(tiny.model, v, x, train=True, gradient_taps=("stage3",)))
    outputs, stats = run(tiny.variables, tiny.images)
    assert outputs.gradients(one_hot([0] * 6))["stage3"].shape == (6, 2, 2, 64)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_classify_of_the_embedding_is_the_logits(tiny):
    outputs = tiny.evaluate(tiny.variables, tiny.images)
    np.testing.assert_allclose(outputs.classify(outputs.features["embedding"]), outputs.logits, rtol=1e-6, atol=1e-6)
    elsewhere = outputs.classify(jnp.zeros((1, 64)))
    np.testing.assert_array_equal(elsewhere[0], tiny.variables["params"]["classifier"]["bias"])


def test_classify_passes_gradients_to_the_classifiers_weights(tiny):
    @jax.jit
    def loss(variables):
        return jnp.sum(models.forward(tiny.model, variables, tiny.images)[0].classify(jnp.ones((1, 64))))

    gradient = jax.grad(loss)(tiny.variables)["params"]
    np.testing.assert_allclose(gradient["classifier"]["kernel"], 1.0)
    assert not np.any(gradient["stem_conv"]["kernel"])


def test_outputs_pass_into_and_out_of_compiled_functions_without_retracing(tiny, tapped):
    traces = []

    @jax.jit
    def use(outputs):
        traces.append(1)
        embedding = outputs.features["embedding"]
        return outputs.gradients(jnp.ones((6, 10)))["input"], outputs.classify(embedding)

    gradient, logits = use(tapped)
    np.testing.assert_allclose(gradient, tapped.gradients(jnp.ones((6, 10)))["input"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, tapped.logits, rtol=1e-5, atol=1e-6)
    use(jax.tree.map(jnp.copy, tapped))
    assert len(traces) == 1


def test_head_of_an_equal_model_does_not_retrace(tiny):
    traces = []

    @jax.jit
    def use(outputs):
        traces.append(1)
        return outputs.classify(outputs.features["embedding"])

    for _ in range(2):
        use(models.forward(models.create("ResNet8", 10), tiny.variables, tiny.images)[0])
    assert len(traces) == 1


def test_unknown_gradient_tap_is_named(tiny):
    with pytest.raises(ValueError, match=r"'stage9'.*'stage1'"):
        models.forward(tiny.model, tiny.variables, tiny.images, gradient_taps=("stage1", "stage9"))


@pytest.mark.parametrize("train", [False, True])
def test_modules_that_return_bare_logits_work(train):
    model, images = BareLogits(), jnp.ones((2, 4, 4, 1))
    variables = model.init(jax.random.key(0), images)
    outputs, stats = models.forward(model, variables, images, train=train)
    np.testing.assert_array_equal(outputs.logits, model.apply(variables, images))
    assert outputs.features == {}
    assert stats == {}
    assert outputs.head is None


def close_in_norm(found, numbers):
    """L2 norm to 1e-4, first entries to 1e-4 of the root mean square entry or of themselves, whichever is larger."""
    found = np.asarray(found, np.float64)
    assert list(found.shape) == numbers["shape"]
    np.testing.assert_allclose(np.linalg.norm(found), numbers["l2"], rtol=1e-4)
    floor = 1e-4 * numbers["l2"] / np.sqrt(found.size)
    np.testing.assert_allclose(found.reshape(-1)[:6], numbers["first"], rtol=1e-4, atol=floor)


def gradcam(feature, gradient):
    """relu(sum_c A_c * mean_hw dy/dA_c), [B, H, W]."""
    return nn.relu(jnp.sum(feature * jnp.mean(gradient, axis=(1, 2), keepdims=True), axis=-1))


@pytest.mark.parametrize("name", ["ResNet20", pytest.param("VGG8", marks=pytest.mark.slow)])
def test_explanation_maps_are_the_references(name, golden, recipe):
    numbers = golden("explanations")["maps"][name.lower()]
    model, variables, images = recipe(f"cifar/{name.lower()}", name)
    taps = [key.removeprefix("gradcam_") for key in numbers if key.startswith("gradcam_stage")]
    last = max(taps)

    @jax.jit
    def run(variables, images):
        outputs, _ = models.forward(model, variables, images, gradient_taps=("input", *taps))
        predicted = jnp.argmax(outputs.logits, axis=-1)
        own = outputs.gradients(jax.nn.one_hot(predicted, 100))
        third = outputs.gradients(jax.nn.one_hot(jnp.full_like(predicted, 3), 100))
        return {
            "predicted": predicted,
            **{f"gradcam_{tap}": gradcam(outputs.features[tap], own[tap]) for tap in taps},
            "gradcam_last_class3": gradcam(outputs.features[last], third[last]),
            "input_gradient_predicted": own["input"],
        }

    found = run(variables, images)
    assert found.pop("predicted").tolist() == numbers["predicted"]
    assert set(found) == set(numbers) - {"predicted"}
    # Class 3's map in ResNet20 is what is left of sums that cancel (norm 6e-6 against 6e-2): below float32's reach.
    scale = numbers[f"gradcam_{last}"]["l2"]
    assert np.linalg.norm(found.pop("gradcam_last_class3")) == pytest.approx(
        numbers["gradcam_last_class3"]["l2"], abs=1e-4 * scale
    )
    for name, value in found.items():
        close_in_norm(value, numbers[name])


LABELS = np.array([3, 42])


def slope_by_input(outputs):
    """The gradient of the cross-entropy by the images."""
    return outputs.gradients(jax.nn.softmax(outputs.logits) - jax.nn.one_hot(LABELS, 100))["input"]


def cam_of(outputs, classes):
    """GradCAM of the last stage, [B, positions]."""
    gradient = outputs.gradients(jax.nn.one_hot(classes, 100))["stage3"]
    return gradcam(outputs.features["stage3"], gradient).reshape(2, -1)


@pytest.fixture(scope="module")
def taught(recipe):
    """The teacher's gradient by the images, its predictions and its GradCAM of them."""
    model, variables, images = recipe("cifar/resnet56", "ResNet56")

    @jax.jit
    def run(variables):
        outputs, _ = models.forward(model, variables, images, gradient_taps=("input", "stage3"))
        predicted = jnp.argmax(outputs.logits, axis=-1)
        return slope_by_input(outputs), predicted, cam_of(outputs, predicted)

    return run(variables)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["e2kd", "grad_at"])
def test_gradients_of_explanations_by_the_weights_are_the_references(kind, golden, recipe, taught):
    numbers = golden("explanations")["second_order"]["resnet56->resnet20"]
    model, variables, images = recipe("cifar/resnet20", "ResNet20")
    slope, predicted, goal = taught

    def loss(params):
        own, tap = {"params": params, "batch_stats": variables["batch_stats"]}, "stage3" if kind == "e2kd" else "input"
        outputs, _ = models.forward(model, own, images, gradient_taps=(tap,))
        if kind == "grad_at":
            return jnp.mean(jnp.sum(jnp.square(slope_by_input(outputs) - slope), axis=(1, 2, 3)))
        found = cam_of(outputs, predicted)
        cosine = jnp.sum(found * goal, axis=1) / jnp.sqrt(jnp.sum(found**2, axis=1) * jnp.sum(goal**2, axis=1))
        return jnp.mean(1 - cosine)

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, numbers[f"{kind}_loss"], rtol=2e-3)
    named = pretrained.to_torch(model, {"params": gradient})
    compared = 0
    for torch_name, norm in numbers[f"{kind}_grads"].items():
        np.testing.assert_allclose(np.linalg.norm(named[torch_name]), norm, rtol=2e-3, err_msg=torch_name)
        compared += 1
    assert compared == 22


def test_names_that_fit_any_network_stand_for_its_own_taps():
    maps = {f"stage{n}": np.zeros((1, 2, 2, 3)) for n in (2, 10, 1)}
    tokens = {name: np.zeros((1, 5, 3)) for name in ("stem", "stage1", "stage2")}
    attention = {f"attention{n}": 0 for n in (10, 9)}
    assert models.resolve(maps, models.LAST_MAP) == ("stage10",)
    assert models.resolve(tokens, models.LAST_MAP) == ("stage1",)
    assert models.resolve({k: tokens[k] for k in ("stem", "stage1")}, models.LAST_MAP) == ("stem",)
    assert models.resolve(attention, models.ATTENTION) == ("attention9", "attention10")
    assert models.resolve({}, "stage7") == ("stage7",)
    for name, message in ((models.LAST_MAP, "no taps stage1"), (models.ATTENTION, "no attention")):
        with pytest.raises(ValueError, match=message):
            models.resolve({"stem": 0}, name)


def test_gradients_of_the_last_map_come_under_its_own_name(tiny):
    taps = (models.LAST_MAP, "stage3")
    run = jax.jit(lambda v, x: models.forward(tiny.model, v, x, gradient_taps=taps)[0])
    assert list(run(tiny.variables, tiny.images).gradients(one_hot([0] * 6))) == ["stage3"]


def test_outputs_answer_to_other_images_and_know_their_own(tiny):
    outputs = tiny.evaluate(tiny.variables, tiny.images)
    again = jax.jit(lambda outputs, images: outputs.again(images).logits)(outputs, tiny.images[::-1])
    np.testing.assert_allclose(again, outputs.logits[::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs.asked().images, tiny.images)
    with pytest.raises(ValueError, match="do not know their images"):
        models.Outputs(outputs.logits, {}).asked()
