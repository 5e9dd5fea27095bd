"""EfficientNet and EfficientNet-Lite: the published sizes, timm's numbers, and the random parts of a training."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

import models
import pretrained
from models import layers
from registry import UserError

NAMES = {
    f"efficientnet_{size.lower()}": f"EfficientNet_{size}"
    for size in ("B0", "Lite0", "Lite1", "Lite2", "Lite3", "Lite4")
}
TORCH = {"padding": "TORCH", "epsilon": 1e-5}  # timm's networks without `tf_`
NUMBERS = ("tf_efficientnet_lite0", "efficientnet_lite0", "efficientnet_b0")


def create(key: str, classes: int = 10, **options):
    own = {} if key.startswith("tf_") else TORCH
    return models.create(NAMES[key.removeprefix("tf_")], classes, **own, **options)


def shapes(model, size: int = 32):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.fixture
def variables_of(draw_tensor):
    """Network -> its variables with the weights of tests/goldens/README.md."""

    def draw(name: str, shape) -> np.ndarray:
        if name.endswith(".weight") and len(shape) == 1:
            return np.random.RandomState(zlib.crc32(name.encode())).uniform(0.5, 1.5, shape).astype(np.float32)
        return draw_tensor(name, list(shape))

    def build(model) -> dict:
        _, variables = shapes(model)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(variables))
        state = {name: draw(name, x.shape) for name, x in pretrained.to_torch(model, zeros).items()}
        return pretrained.from_torch(model, state)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values())
def test_sizes_and_names_are_timms(name, golden):
    entry = golden("efficientnet")[f"tf_{name.lower()}"]
    _, variables = shapes(models.create(name, 1000))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == entry["params"]
    model = models.create(name, 10)
    _, variables = shapes(model)
    state = pretrained.to_torch(model, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(variables)))
    assert len(state) == entry["state_dict_tensors"]
    listed = json.dumps([[name, list(x.shape)] for name, x in sorted(state.items())])
    assert zlib.crc32(listed.encode()) == entry["state_dict_crc32"]


@pytest.mark.slow
@pytest.mark.parametrize("key", NUMBERS)
def test_logits_and_features_are_timms(key, golden, variables_of):
    entry, model = golden("efficientnet")[key], create(key)
    size = entry["input_size"]
    images = np.random.RandomState(7).standard_normal((2, size, size, 3)).astype(np.float32)
    outputs = jax.jit(model.apply)(variables_of(model), images)
    expected = np.asarray(entry["logits"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    features = [outputs.features["stem"], *models.stages(outputs.features)]
    for feature, numbers in zip(features, entry["features"], strict=True):
        assert list(feature.shape) == numbers["shape"]
        feature = np.asarray(feature, np.float64)
        np.testing.assert_allclose(np.linalg.norm(feature), numbers["l2"], rtol=1e-4)
        first, largest = np.asarray(numbers["first"]), np.abs(feature).max()
        np.testing.assert_allclose(feature.reshape(-1)[:4], first, rtol=1e-4, atol=1e-4 * largest)


def test_taps_lie_where_the_resolution_is_halved():
    outputs, _ = shapes(models.create("EfficientNet_Lite0", 10), 224)
    found = {name: x.shape[1:] for name, x in outputs.features.items() if not name.endswith("_preact")}
    assert found == {
        "stem": (112, 112, 32),
        "stage1": (56, 56, 24),
        "stage2": (28, 28, 40),
        "stage3": (14, 14, 112),
        "stage4": (7, 7, 320),
        "final": (7, 7, 1280),
        "embedding": (1280,),
    }


@pytest.mark.parametrize(("side", "differs"), [(8, True), (7, False)])
def test_padding_same_is_xlas_for_depthwise_kernels_of_5_too(side, differs):
    random = np.random.RandomState(0)
    x, kernel = (random.standard_normal(shape).astype(np.float32) for shape in ((2, side, side, 3), (5, 5, 1, 3)))
    axes = ("NHWC", "HWIO", "NHWC")
    same = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=axes, feature_group_count=3)
    conv = layers.Conv(3, 5, 2, groups=3, padding="SAME")
    found = conv.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-5)
    torchs = conv.clone(padding="TORCH").apply({"params": {"kernel": kernel}}, x)
    assert (np.abs(torchs - found).max() > 0.1) == differs


def test_an_unknown_padding_names_the_known_ones():
    with pytest.raises(UserError, match="TORCH or SAME; got 'VALID'"):
        shapes(models.create("EfficientNet_Lite0", 10, padding="VALID"))


@pytest.mark.slow
def test_dropout_and_stochastic_depth_draw_in_training_alone(variables_of):
    small = {"width": 0.25, "depth": 0.5}
    model = models.create("EfficientNet_Lite0", 10, **small, dropout=0.5, stochastic_depth=0.5)
    variables, images = variables_of(model), np.random.RandomState(7).standard_normal((4, 32, 32, 3))
    images = images.astype(np.float32)

    @jax.jit
    def train(key):
        return models.forward(model, variables, images, train=True, rngs={"dropout": key})[0]

    one, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.logits, again.logits)
    assert np.abs(one.logits - other.logits).max() > 0.1
    assert (np.asarray(one.features["embedding"]) > 0).mean() > 0.4  # the tap is not the dropped embedding
    plain = models.create("EfficientNet_Lite0", 10, **small)
    asked = [jax.jit(net.apply)(variables, images).logits for net in (model, plain)]
    np.testing.assert_array_equal(*asked)
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(lambda: models.forward(model, variables, images, train=True))
    jax.eval_shape(lambda: models.forward(plain, variables, images, train=True))
