import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import models

TAPS = ["stem", "stage1_preact", "stage1", "stage2_preact", "stage2", "stage3_preact", "stage3", "final", "embedding"]


@functools.cache
def shapes(name: str, size: int = 32, channels: int = 3, classes: int = 100, **options):
    """(variables, outputs) as shapes; nothing is computed."""
    model = models.create(name, classes, **options)
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    order = []

    def run(key, x):
        variables = model.init(key, x)
        outputs = model.apply(variables, x)
        order[:] = outputs.features
        return variables, outputs

    variables, outputs = jax.eval_shape(run, jax.random.key(0), images)
    return variables, outputs, order


@pytest.mark.parametrize("name", ["ResNet8", "ResNet20", "ResNet8x4"])
def test_taps_are_recorded_from_the_input_to_the_classifier(name):
    assert shapes(name)[2] == TAPS


def test_stage_outputs_are_the_relu_of_what_precedes_it(tiny):
    features = tiny.evaluate(tiny.variables, tiny.images).features
    for after, before in zip(models.stages(features), models.stages(features, "_preact"), strict=True):
        assert (np.asarray(before) < 0).any()
        np.testing.assert_array_equal(after, np.maximum(before, 0))


def test_embedding_is_the_mean_of_the_last_stage(tiny):
    features = tiny.evaluate(tiny.variables, tiny.images).features
    np.testing.assert_allclose(features["embedding"], np.mean(features["stage3"], axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_initial_weights_have_the_references_distributions(tiny):
    convolutions = 0
    for path, value in traverse_util.flatten_dict(tiny.variables["params"], sep="/").items():
        value = np.asarray(value)
        assert value.dtype == np.float32
        if path.startswith("classifier"):  # PyTorch's linear layer: uniform within 1 / sqrt(fan_in)
            bound = 64**-0.5
            assert 0.7 * bound < np.abs(value).max() <= bound, path
            np.testing.assert_allclose(value.std(), bound / np.sqrt(3), rtol=0.4 if value.ndim == 1 else 0.1)
        elif value.ndim == 4:  # kaiming_normal_(mode="fan_out")
            size, _, _, out = value.shape
            deviation = np.sqrt(2 / (size * size * out))
            np.testing.assert_allclose(value.std(), deviation, rtol=4 / np.sqrt(2 * value.size), err_msg=path)
            assert abs(value.mean()) < 5 * deviation / np.sqrt(value.size), path
            if value.size > 10000:  # a normal has 1.2 % beyond 2.5 deviations, one cut at 2 deviations has none
                assert 0.008 < (np.abs(value) > 2.5 * deviation).mean() < 0.017, path
            convolutions += 1
        else:
            np.testing.assert_array_equal(value, 1.0 if path.endswith("scale") else 0.0, err_msg=path)
    assert convolutions == 9
    for path, value in traverse_util.flatten_dict(tiny.variables["batch_stats"], sep="/").items():
        np.testing.assert_array_equal(value, 1.0 if path.endswith("var") else 0.0, err_msg=path)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_float32(tiny):
    variables, outputs, _ = shapes("ResNet8", 8, 1, 10, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    maps = {name: x.dtype for name, x in outputs.features.items() if name != "embedding"}
    assert set(maps.values()) == {jnp.dtype("bfloat16")}
    assert outputs.logits.dtype == jnp.float32
    model = models.create("ResNet8", 10, dtype=jnp.bfloat16)
    low, stats = jax.jit(lambda v, x: models.forward(model, v, x, train=True))(tiny.variables, tiny.images)
    high, _ = tiny.train(tiny.variables, tiny.images)
    assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    difference = np.abs(np.asarray(low.logits) - np.asarray(high.logits)).max()
    assert 0 < difference < 0.1 * np.abs(np.asarray(high.logits)).max()


def test_training_moves_the_statistics_once_by_a_tenth(tiny):
    _, stats = tiny.train(tiny.variables, tiny.images)
    kernel = np.asarray(tiny.variables["params"]["stem_conv"]["kernel"], np.float64)[:, :, 0]
    images = np.pad(np.asarray(tiny.images, np.float64)[..., 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    convolved = np.einsum("bhwij,ijc->bhwc", windows, kernel).reshape(-1, 16)
    np.testing.assert_allclose(stats["stem_bn"]["mean"], 0.1 * convolved.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["stem_bn"]["var"], 0.9 + 0.1 * convolved.var(0), rtol=1e-4)


def test_training_normalises_with_the_batch_and_not_with_the_running_statistics(tiny):
    moved = jax.tree.map(lambda x: x + 3.0, tiny.variables["batch_stats"])
    one, _ = tiny.train(tiny.variables, tiny.images)
    other, _ = tiny.train({**tiny.variables, "batch_stats": moved}, tiny.images)
    np.testing.assert_array_equal(one.logits, other.logits)


def test_evaluation_changes_no_statistics_and_sees_each_image_alone(tiny):
    outputs, stats = jax.jit(lambda v, x: models.forward(tiny.model, v, x))(tiny.variables, tiny.images)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), stats, tiny.variables["batch_stats"]))
    alone = tiny.evaluate(tiny.variables, tiny.images[2:3])
    np.testing.assert_allclose(alone.logits[0], outputs.logits[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "channels", "stages"), [(8, 1, [8, 4, 2]), (15, 2, [15, 8, 4]), (64, 3, [64, 32, 16])]
)
def test_any_image_size_and_number_of_channels(size, channels, stages):
    _, outputs, _ = shapes("ResNet8", size, channels, 7)
    assert [x.shape[1] for x in models.stages(outputs.features)] == stages
    assert outputs.logits.shape == (2, 7)


def test_one_set_of_parameters_serves_images_of_every_size(tiny):
    logits = tiny.evaluate(tiny.variables, jnp.ones((1, 13, 9, 1))).logits
    assert logits.shape == (1, 10)
    assert np.isfinite(logits).all()
