"""What every registered network promises, checked on shapes alone; the rest on one small network a family."""

import collections
import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from flax import traverse_util

import models
from models import layers
from models.layers import BatchNorm
from models.shufflenet import channel_shuffle
from registry import UserError

WITHOUT_FINAL = {"ViT_Ti", "ViT_S", "ViT_B", "ConvNeXt_T"}  # a class token; a norm between the mean and the classifier
# the smallest network of each file; the others are not of the fast tier
FAMILIES = (
    *("ResNet8", "ResNet8x4", "ResNet18", "ResNet50", "WRN_16_1", "VGG8", "MobileNetV1", "MobileNetV2"),
    *("ShuffleNetV1", "ShuffleNetV2", "CNN", "ViT_Ti", "ConvNeXt_T"),
)
CLASSIFIERS = [name for name in models.names() if not models.is_detector(name)]
every = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAMILIES)) for name in CLASSIFIERS]
)


def images(size: int = 32, count: int = 2):
    return jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32)


@functools.cache
def traced(name: str, **options):
    """(model, variables, outputs, taps in the order of recording) as shapes; nothing is computed."""
    model, order = models.create(name, 10, **options), []

    def run(x):
        outputs, variables = model.init_with_output(jax.random.key(0), x)
        order[:] = outputs.features
        return variables, outputs

    variables, outputs = jax.eval_shape(run, images())
    return model, variables, outputs, order


def stages_of(order: list[str]) -> list[str]:
    return [name for name in order if name.removeprefix("stage").isdigit()]


@every
def test_a_network_returns_logits_and_taps_from_the_input_to_the_classifier(name):
    _, variables, outputs, order = traced(name)
    assert isinstance(outputs, models.Outputs)
    assert outputs.logits.shape == (2, 10)
    assert outputs.logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    stages = stages_of(order)
    assert stages == [f"stage{n}" for n in range(1, len(stages) + 1)]
    assert len(stages) >= 3
    assert order[0] == "stem" or name == "MobileNetV1"
    assert order[-1] == "embedding"
    assert ("final" in order) == (name not in WITHOUT_FINAL)
    if name not in WITHOUT_FINAL:
        assert outputs.features["final"].shape[::3] == outputs.features["embedding"].shape
    for stage in stages:
        before = outputs.features.get(f"{stage}_preact")
        assert before is None or before.shape == outputs.features[stage].shape


@every
def test_the_classifier_alone_gives_the_logits(name):
    model, variables, outputs, _ = traced(name)
    embedding = outputs.features["embedding"]
    assert embedding.ndim == 2
    assert embedding.dtype == jnp.float32
    logits = jax.eval_shape(lambda v, e: model.apply(v, e, method="classify"), variables, embedding)
    assert logits == outputs.logits


@every
def test_a_training_step_in_bfloat16_reads_each_delta_and_each_batch_norm_once_and_keeps_float32(name):
    """One trace: the logits, the statistics and what has no positions are float32, all else is bfloat16."""
    _, variables, outputs, _ = traced(name)
    model, read, calls = models.create(name, 10, dtype=jnp.bfloat16), [], collections.Counter()
    shapes = {tap: x.shape for tap, x in outputs.features.items()}
    types = {tap: jnp.dtype("float32" if len(shape) == 2 else "bfloat16") for tap, shape in shapes.items()}

    class Deltas(dict):
        def __getitem__(self, tap):
            read.append(tap)
            return super().__getitem__(tap)

    def count(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            calls[context.module.path] += 1
        return call(*args, **kwargs)

    def run(v, x):
        deltas = {tap: jnp.zeros(shape, types[tap]) for tap, shape in shapes.items()}
        with nn.intercept_methods(count):
            deltas = Deltas(deltas, input=jnp.zeros_like(x))
            return model.apply(v, x, train=True, deltas=deltas, mutable=["batch_stats"])

    trained, updates = jax.eval_shape(run, variables, images())
    assert sorted(read) == sorted([*shapes, "input"])
    assert trained.logits.dtype == jnp.float32
    assert {tap: x.dtype for tap, x in trained.features.items()} == types
    statistics = variables.get("batch_stats", {})
    assert updates.get("batch_stats", {}) == statistics
    assert calls == dict.fromkeys({path[:-1] for path in traverse_util.flatten_dict(dict(statistics))}, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_that_computes_in_bfloat16_has_float32_parameters(name):
    assert traced(name, dtype=jnp.bfloat16)[1] == traced(name)[1]


@every
def test_every_variable_has_one_torch_name(name):
    model, variables, _, _ = traced(name)
    paths = list(traverse_util.flatten_dict(dict(variables)))
    assert len({model.torch_name(path) for path in paths}) == len(paths)


# convolutions, the linear layer's kernel, its bias: standard deviations as functions of the shape; 0 means zeros
NORMAL = (lambda size, per_output, out: np.sqrt(2 / (size * size * out)), "normal")
UNIFORM = (lambda size, per_output, out: 1 / np.sqrt(3 * size * size * per_output), "uniform")
# of a depthwise convolution, EfficientNet's code counts one output
REFERENCE = (lambda size, per_output, out: np.sqrt(2 / (size * size * (out if per_output > 1 else 1))), "normal")
INITIAL = {
    "ResNet18": (NORMAL, "default", "default"),
    "WRN_16_2": (NORMAL, "default", "zero"),
    "VGG8": (NORMAL, 0.01, "zero"),
    "MobileNetV1": (UNIFORM, "default", "default"),
    "MobileNetV2": (NORMAL, 0.01, "zero"),
    "EfficientNet_B0": (REFERENCE, 1 / np.sqrt(3 * 100), "zero"),  # the linear layer: uniform in +-1/sqrt(outputs)
    "ShuffleNetV1": (UNIFORM, "default", "default"),
    "CNN": (NORMAL, "default", "default"),
}


@pytest.mark.parametrize("name", INITIAL)
def test_initial_weights_have_the_references_distributions(name, monkeypatch):
    drawn, parameter = {}, layers.parameter

    def record(module, name, init, shape):
        drawn["/".join((*module.path, name))] = init, shape
        return parameter(module, name, nn.initializers.zeros, shape)

    monkeypatch.setattr(layers, "parameter", record)
    (deviation, kind), linear, bias = INITIAL[name]
    model = models.create(name, 100)
    jax.eval_shape(model.init, jax.random.key(0), images())
    chosen = {}  # one array of each initialiser and size of kernel stands for the others
    for path, (init, shape) in drawn.items():
        if path.startswith("classifier") or len(shape) == 4:
            chosen[path if len(shape) < 4 else (init, shape[0], shape[2] == 1)] = path, init, shape
        else:
            chosen[init, path.endswith("scale")] = path, init, shape
    width = drawn["classifier/kernel"][1][0]
    for path, init, shape in chosen.values():
        value = np.asarray(init(jax.random.key(3), shape, jnp.float32))
        if value.ndim == 4:
            size, _, per_output, out = value.shape
            expected = deviation(size, per_output, out)
            np.testing.assert_allclose(value.std(), expected, rtol=4.5 / np.sqrt(2 * value.size), err_msg=path)
            assert abs(value.mean()) < 5 * expected / np.sqrt(value.size), path
            extreme = np.abs(value).max() / expected
            if kind == "uniform":
                assert extreme <= np.sqrt(3) + 1e-5, path
            elif value.size > 10000:
                assert extreme > 3, path
        elif path == "classifier/kernel":
            expected = value.shape[0] ** -0.5 / np.sqrt(3) if linear == "default" else linear
            np.testing.assert_allclose(value.std(), expected, rtol=0.05)
        elif path == "classifier/bias" and bias == "default":
            assert 0 < np.abs(value).max() <= width**-0.5
        else:
            np.testing.assert_array_equal(value, 1.0 if path.endswith("scale") else 0.0, err_msg=path)


@pytest.mark.parametrize(("size", "stem", "side"), [(32, 3, 32), (63, 3, 63), (64, 7, 32), (224, 7, 112)])
def test_the_stem_follows_the_size_of_the_image(size, stem, side):
    for options in ({}, {"stem": "imagenet" if stem == 7 else "cifar"}):
        model = models.create("ResNet18", 10, **options)
        run = functools.partial(model.init_with_output, jax.random.key(0))
        outputs, variables = jax.eval_shape(run, images(size))
        assert variables["params"]["stem_conv"]["kernel"].shape == (stem, stem, 3, 64)
        assert outputs.features["stem"].shape == (2, side, side, 64)


def test_a_stem_that_is_asked_for_wins_over_the_size():
    model = models.create("ResNet18", 10, stem="imagenet")
    assert jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images(32))["params"]["stem_conv"][
        "kernel"
    ].shape == (7, 7, 3, 64)


@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2"])
def test_an_unknown_stem_names_the_known_ones(name):
    model = models.create(name, 10, stem="imagnet")
    with pytest.raises(UserError, match=r"'imagnet'.*'cifar'.*'imagenet'"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images())


def test_mobilenet_v2_for_tiny_imagenet_pads_its_stem_and_halves_three_times():
    """The parameters are those of mdistiller's network without the biases before batch norms."""
    model = models.create("MobileNetV2", 200, stem="tiny")
    outputs, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images(64))
    sides = {name: x.shape[1] for name, x in outputs.features.items() if name in ("stem", "stage1", "stage2", "stage4")}
    assert sides == {"stem": 66, "stage1": 33, "stage2": 17, "stage4": 9}
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 2_480_392


@pytest.mark.parametrize(("size", "last"), [(32, 4), (63, 7), (64, 4)])
def test_vgg_pools_once_more_from_64_pixels_on(size, last):
    model = models.create("VGG8", 10)
    outputs = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images(size))
    assert outputs.features["stage4"].shape == (2, last, last, 512)


def test_wide_resnets_preactivation_is_the_next_batch_norm_of_the_stage():
    model = models.create("WRN_16_1", 5)
    x = np.random.RandomState(1).standard_normal((3, 8, 8, 1)).astype(np.float32)
    variables = drawn(model, x, 0)
    # statistics far from the batch's show how often they moved: 0.9 of the way is left after one step, 0.81 after two
    far = {**variables, "batch_stats": jax.tree.map(lambda s: s + 1e4, variables["batch_stats"])}
    outputs, stats = jax.jit(lambda v, x: models.forward(model, v, x, train=True))(far, x)
    for value in jax.tree.leaves(stats):
        np.testing.assert_allclose(value, 9000, atol=100)
    for tap in ("stage1", "stage2", "stage3"):
        raw = np.asarray(outputs.features[tap], np.float64)
        normal = (raw - raw.mean((0, 1, 2))) / np.sqrt(raw.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(outputs.features[f"{tap}_preact"], normal, rtol=1e-3, atol=1e-3)
    embedding = np.maximum(outputs.features["stage3_preact"], 0).mean((1, 2))
    np.testing.assert_allclose(outputs.features["embedding"], embedding, rtol=1e-5, atol=1e-6)


def test_channel_shuffle_deals_the_groups_out():
    assert channel_shuffle(jnp.arange(6), 3).tolist() == [0, 2, 4, 1, 3, 5]
    assert channel_shuffle(jnp.arange(6), 1).tolist() == list(range(6))


def test_a_parameter_that_is_there_is_checked_by_its_shape_and_its_initialisation_left_alone():
    def init(key, shape, dtype):
        started.append(shape)
        return jnp.zeros(shape, dtype)

    started, layer, x = [], layers.Conv(4, 3, kernel_init=init), jnp.ones((1, 5, 5, 2))
    variables = layer.init(jax.random.key(0), x)
    assert started == [(3, 3, 2, 4)]
    assert layer.apply(variables, x).shape == (1, 5, 5, 4)
    assert len(started) == 1
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r"kernel.*\(3, 3, 3, 4\)"):
        layer.apply(variables, jnp.ones((1, 5, 5, 3)))
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        layer.apply({"params": {"bias": jnp.zeros(4)}}, x)
