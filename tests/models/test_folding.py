"""A folded network is the same network, and says so tap by tap."""

import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.errors import ScopeParamNotFoundError

import models
from models import layers
from models.folding import fold, foldable

# one a family, with how many of its batch norms follow a convolution and nothing else, of how many
FAMILIES = {
    "ResNet8x4": (10, 10),
    "ResNet18": (20, 20),
    "ResNet50": (53, 53),
    "WRN_16_1": (6, 13),  # a block's first batch norm reads a sum, or the stem, which is a tap
    "VGG8": (5, 5),
    "MobileNetV1": (27, 27),
    "MobileNetV2": (53, 53),
    "ShuffleNetV1": (49, 49),
    "ShuffleNetV2": (56, 56),
    "EfficientNet_B0": (49, 49),
    "CNN": (4, 4),
    "ViT_Ti": (0, 0),
    "ConvNeXt_T": (0, 0),
}
# name -> options that leave fewer blocks of the same kinds
RUN = {
    **{name: {} for name in ("ResNet8x4", "WRN_16_1", "VGG8", "MobileNetV2", "EfficientNet_B0", "CNN")},
    **{name: {"blocks": (2, 2, 2)} for name in ("ShuffleNetV1", "ShuffleNetV2")},
}


def random_variables(model, shape, seed=0):
    """Weights and statistics that are nobody's defaults, drawn by path as `recipe_tensor` draws them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))

    def draw(path, x):
        random = np.random.RandomState(zlib.crc32("/".join(path).encode()) + seed)
        if path[-1] in ("var", "scale"):
            return random.uniform(0.5, 1.5, x.shape).astype(np.float32)
        if len(x.shape) > 1:
            return (random.standard_normal(x.shape) * np.prod(x.shape[:-1]) ** -0.5).astype(np.float32)
        return (0.1 * random.standard_normal(x.shape)).astype(np.float32)

    flat = traverse_util.flatten_dict(dict(shapes))
    return traverse_util.unflatten_dict({path: draw(path, x) for path, x in flat.items()})


def compare(model, variables, shape, rtol=1e-5):
    """Every output of the folded network against the unfolded, relative to that output's largest value."""
    images = jnp.asarray(np.random.RandomState(1).standard_normal((3, *shape)), jnp.float32)
    folded = fold(model, variables, shape)
    run = jax.jit(lambda v, x: models.forward(model, v, x)[0])
    before, after = (run(v, images).replace(head=None, source=None) for v in (variables, folded))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        assert np.abs(x - y).max() <= rtol * np.abs(x).max(), jax.tree_util.keystr(path)
        assert np.abs(x).max() > 0
    return folded, before.features


@functools.cache
def traced(name):
    model = models.create(name, 10)
    return model, jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_batch_norms_behind_a_convolution_are_found(name):
    model, variables = traced(name)
    pairs, every = FAMILIES[name]
    found = foldable(model, variables, (32, 32, 3))
    norms = [path for path in traverse_util.flatten_dict(dict(variables)) if path[-1] == "mean"]
    assert (len(found), len(norms)) == (pairs, every)
    assert len({layer for layer, _, _ in found}) == len({norm for _, norm, _ in found}) == pairs
    for layer, norm, epsilon in found:
        assert layer[:-1] == norm[:-1]  # of one block
        assert epsilon == getattr(model, "epsilon", 1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("MobileNetV2", "EfficientNet_B0"))) for name in RUN],
)
def test_a_folded_network_gives_the_same_outputs_within_a_hundred_thousandth(name):
    model, shape = models.create(name, 7, **RUN[name]), (8, 8, 3)
    variables = random_variables(model, shape)
    folded, features = compare(model, variables, shape)
    np.testing.assert_allclose(np.mean(features["final"], axis=(1, 2)), features["embedding"], rtol=1e-4, atol=1e-6)
    paths = traverse_util.flatten_dict(folded)
    before, after = (sum(path[-1] == "mean" for path in its) for its in (traverse_util.flatten_dict(variables), paths))
    assert before - after == len(foldable(model, variables, shape)) > 0
    assert {np.asarray(x).dtype for x in paths.values()} == {np.dtype("float32")}


def test_networks_without_batch_norm_pass_unchanged():
    model, shape = models.create("ViT_Ti", 4, depth=4, patch_size=4), (8, 8, 3)
    variables = random_variables(model, shape)
    folded = fold(model, variables, shape)
    assert folded["batch_stats"] == {}
    before, after = (traverse_util.flatten_dict(dict(v["params"])) for v in (variables, folded))
    assert before.keys() == after.keys()
    assert all(after[path] is before[path] for path in before)


def test_the_given_variables_are_not_touched_and_folding_twice_changes_nothing():
    model, shape = models.create("CNN", 4), (8, 8, 1)
    variables = random_variables(model, shape)
    copy = jax.tree.map(np.copy, variables)
    folded = fold(model, variables, shape)
    jax.tree.map(np.testing.assert_array_equal, variables, copy)
    again = fold(model, folded, shape)
    jax.tree.map(np.testing.assert_array_equal, folded, again)


class Reads(nn.Module):
    """One convolution and a batch norm; who else reads the convolution depends on `also`."""

    num_classes: int
    also: str = ""

    @nn.compact
    def __call__(self, images, train: bool = False, deltas=None):
        tap = models.Taps(deltas)
        conv, norm = layers.Conv(4, 3, use_bias=True), layers.BatchNorm(epsilon=0.5)
        raw = conv(images)
        x = norm(nn.relu(raw) if self.also == "between" else raw, train)
        if self.also == "sum":
            x = x + raw
        elif self.also == "tap":
            tap("raw", raw)
        elif self.also == "conv again":
            x = x + conv(images[:, ::-1])
        elif self.also == "norm again":
            x = norm(x, train)
        x = layers.Dense(5)(nn.relu(x).mean((1, 2)))
        x = tap("embedding", nn.relu(layers.BatchNorm()(x, train)))
        return models.Outputs(logits=layers.Dense(self.num_classes)(x), features=tap.features)


@pytest.mark.parametrize("also", ["", "between", "sum", "tap", "conv again", "norm again"])
def test_a_layer_that_anything_else_reads_is_left_alone(also):
    model, shape = Reads(3, also), (6, 6, 2)
    variables = random_variables(model, shape)
    pairs = [(layer[-1], norm[-1]) for layer, norm, _ in foldable(model, variables, shape)]
    assert pairs == [("Conv_0", "BatchNorm_0")] * (not also) + [("Dense_0", "BatchNorm_1")]
    compare(model, variables, shape)


def test_gradients_with_respect_to_taps_are_the_same():
    model, shape = models.create("CNN", 4), (8, 8, 1)
    variables = random_variables(model, shape)
    images = jnp.asarray(np.random.RandomState(1).standard_normal((2, *shape)), jnp.float32)

    @jax.jit
    def gradients(v):
        outputs, _ = models.forward(model, v, images, gradient_taps=("input", "stage1_preact"))
        return outputs.gradients(jax.nn.one_hot(jnp.arange(2), 4))

    before, after = gradients(variables), gradients(fold(model, variables, shape))
    for tap, value in before.items():
        assert np.abs(value - after[tap]).max() <= 1e-5 * np.abs(value).max()
        assert np.any(value)


def test_bfloat16_stays_as_close_as_bfloat16_is():
    model, shape = models.create("CNN", 4, dtype=jnp.bfloat16), (8, 8, 1)
    folded, _ = compare(model, random_variables(model, shape), shape, rtol=0.03)
    features = jax.eval_shape(lambda: models.forward(model, folded, jnp.zeros((1, *shape)))[0].features)
    assert features["stage2"].dtype == jnp.bfloat16


def test_a_folded_network_cannot_be_trained():
    model, shape = models.create("CNN", 4), (8, 8, 1)
    folded = fold(model, random_variables(model, shape), shape)
    with pytest.raises(ScopeParamNotFoundError, match="scale"):
        models.forward(model, folded, jnp.zeros((2, *shape)), train=True)
