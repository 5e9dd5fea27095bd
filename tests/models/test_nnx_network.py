"""Networks of `flax.nnx` behind linen's door: the page's example, and what it must not do in silence."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
from flax.errors import InvalidRngError

import models
from registry import UserError

ARCH = "my_nnx:MyNNX"
ODD = """
from flax import nnx


class Counter(nnx.Variable):
    pass


class Counting(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.linear = nnx.Linear(64, num_classes, rngs=rngs)
        self.count = Counter(0.0)

    def __call__(self, images):
        return self.linear(images.reshape(len(images), -1))


class Bare(nnx.Module):
    def __init__(self, num_classes, *, dtype=None, rngs):
        self.linear = nnx.Linear(64, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images, train):
        self.trained = train
        return self.linear(images.reshape(len(images), -1))


def bare(num_classes, rngs):
    return Bare(num_classes, rngs=rngs)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder with the page's network in `my_nnx.py`, and others in `odd_nnx.py`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_nnx.py").write_text(pages.code("models.md", "class MyNNX"))
    (folder / "odd_nnx.py").write_text(ODD)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("my_nnx", "odd_nnx"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).standard_normal((4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def made(own, images):
    """(the page's network with dropout, its first variables)."""
    model = models.create(ARCH, 10, width=4, dropout=0.5)
    return model, jax.jit(model.init)(jax.random.key(0), images)


@pytest.mark.slow
def test_the_network_is_a_linen_module_with_taps_statistics_and_a_classifier(made, images):
    model, variables = made
    assert isinstance(model, nn.Module)
    assert model == models.create(ARCH, 10, width=4, dropout=0.5)
    assert hash(model) == hash(models.create(ARCH, 10, width=4, dropout=0.5))
    assert set(variables) == {"params", "batch_stats"}
    assert variables["params"]["blocks"]["1"]["kernel"].shape == (3, 3, 8, 16)

    @jax.jit
    def ask(variables, images):
        outputs, stats = models.forward(model, variables, images, gradient_taps=("input", "stage1"))
        gradients = outputs.gradients(jnp.ones_like(outputs.logits))
        again = outputs.classify(outputs.features["embedding"])
        wanted = jax.grad(lambda images: models.forward(model, variables, images)[0].logits.sum())(images)
        return outputs.logits, outputs.features, gradients, again, stats, wanted

    logits, features, gradients, again, stats, wanted = ask(variables, images)
    assert set(features) == {"stem", "stage1", "stage1_preact", "stage2", "stage2_preact", "embedding"}
    np.testing.assert_allclose(again, logits, rtol=1e-6)
    np.testing.assert_allclose(gradients["input"], wanted, rtol=1e-4, atol=1e-6)
    assert gradients["stage1"].shape == features["stage1"].shape
    assert jax.tree.all(jax.tree.map(np.array_equal, stats, variables["batch_stats"]))


def test_first_weights_follow_from_the_key(made, images):
    model, variables = made
    same, other = (jax.jit(model.init)(jax.random.key(seed), images) for seed in (0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, same, variables))
    assert not np.array_equal(other["params"]["stem"]["kernel"], variables["params"]["stem"]["kernel"])


@pytest.mark.slow
def test_dropout_draws_from_the_key_and_statistics_move_in_training_alone(made, images):
    model, variables = made

    @jax.jit
    def ask(key):
        outputs, stats = models.forward(model, variables, images, train=True, rngs={"dropout": key})
        return outputs.logits, stats

    (first, stats), (again, _), (other, _) = (ask(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max() > 0, stats, variables["batch_stats"])
    assert jax.tree.all(moved)
    with pytest.raises(InvalidRngError, match="MyNNX draws random numbers in training and is given none"):
        models.forward(model, variables, images, train=True)


def test_a_network_without_dropout_needs_no_key(own, images):
    model = models.create(ARCH, 10, width=4)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    first, second = (models.forward(model, variables, images, train=True, rngs=r)[0].logits for r in (None, None))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["odd_nnx:Bare", "odd_nnx:bare"])
def test_bare_logits_and_a_call_that_asks_for_the_mode(name, own, images):
    model = models.create(name, 3)
    variables = model.init(jax.random.key(0), images)
    assert not hasattr(model, "classify")
    outputs, _ = models.forward(model, variables, images, train=True)
    assert outputs.logits.shape == (4, 3)
    assert outputs.features == {}


def test_mistakes_are_told(own):
    with pytest.raises(UserError, match=r"'count' of the nnx network is Counter.\nA network's variables are nnx.Param"):
        models.create("odd_nnx:Counting", 3)
    with pytest.raises(UserError, match=r"Cannot build my_nnx:MyNNX with num_classes, depth: .*'depth'"):
        models.create(ARCH, 3, depth=2)
    with pytest.raises(UserError, match=r"Cannot build odd_nnx:bare with num_classes, dtype: .*'dtype'"):
        models.create("odd_nnx:bare", 3, dtype=jnp.bfloat16)
