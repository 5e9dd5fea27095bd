"""Stochastic depth and dropout as options of the families whose papers have them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

import models
from models.convnext import ConvNeXt
from models.layers import branch_dropped, depth_rates
from models.resnet_imagenet import ImageNetResNet
from models.vit import ViT
from registry import UserError

SMALL = {
    "basic": lambda **own: ImageNetResNet(blocks=(1, 1, 1, 1), bottleneck=False, num_classes=10, **own),
    "bottleneck": lambda **own: ImageNetResNet(blocks=(1, 1, 1, 1), bottleneck=True, num_classes=10, **own),
    "ViT": lambda **own: ViT(width=16, heads=2, num_classes=10, depth=2, stages=2, **own),
    "ConvNeXt": lambda **own: ConvNeXt(blocks=(1, 2), widths=(8, 16), num_classes=10, patch_size=1, **own),
}
IMAGES = np.random.RandomState(0).standard_normal((8, 8, 8, 3)).astype(np.float32)


def test_whole_rows_are_dropped_and_the_mean_stays():
    class Rows(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return branch_dropped(x, 0.25, train)

    x = jnp.ones((4000, 3, 2))
    found = np.asarray(Rows().apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    rows = found.reshape(4000, -1)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape))
    np.testing.assert_allclose(np.unique(rows), [0, 4 / 3], rtol=1e-6)
    assert abs((rows[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(Rows().apply({}, x, False), x)


def test_rates_grow_linearly_to_the_largest():
    assert depth_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert depth_rates(0.2, 1) == [0]


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALL)
def test_only_training_draws(family):
    plain, deep = SMALL[family](), SMALL[family](stochastic_depth=0.6)
    variables = drawn(plain, IMAGES, 3)
    assert jax.tree.structure(variables) == jax.tree.structure(jax.eval_shape(deep.init, jax.random.key(0), IMAGES))

    @jax.jit
    def ask(key):
        evaluated = [models.forward(net, variables, IMAGES)[0].logits for net in (plain, deep)]
        trained = models.forward(deep, variables, IMAGES, train=True, rngs={"dropout": key})[0].features
        return evaluated, trained

    (theirs, ours), one = ask(jax.random.key(0))
    other = ask(jax.random.key(1))[1]
    np.testing.assert_array_equal(ours, theirs)
    assert np.abs(one["embedding"] - other["embedding"]).max() > 1e-3
    first = "stage1" if family != "ConvNeXt" else "stem"  # the first block never drops
    np.testing.assert_array_equal(one[first], other[first])


@pytest.mark.slow
def test_a_block_that_is_dropped_is_its_shortcut():
    """At a rate near 1 each row of the last stage is what entered the stage's last block."""
    model = ViT(width=16, heads=2, num_classes=10, depth=2, stages=2, stochastic_depth=0.999999)
    variables = drawn(model, IMAGES, 3)
    taps = models.forward(model, variables, IMAGES, train=True, rngs={"dropout": jax.random.key(0)})[0].features
    np.testing.assert_array_equal(taps["stage1"], taps["stage2"])


def test_the_dropout_of_a_vit_draws_in_training_alone():
    model = SMALL["ViT"](dropout=0.5)
    variables = drawn(model, IMAGES, 3)
    run = jax.jit(lambda key: models.forward(model, variables, IMAGES, train=True, rngs={"dropout": key})[0].features)
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    assert 0.4 < (np.asarray(one["stem"]) == 0).mean() < 0.6
    assert np.abs(one["stage2"] - other["stage2"]).max() > 0.1
    evaluated = [jax.jit(net.apply)(variables, IMAGES).logits for net in (model, SMALL["ViT"]())]
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("option", ["stochastic_depth", "dropout"])
@pytest.mark.parametrize("name", ["EfficientNet_B0", "ViT_Ti", "ResNet18", "ConvNeXt_T"])
def test_a_rate_that_is_no_probability_below_1_is_refused(name, option):
    if option == "dropout" and name in ("ResNet18", "ConvNeXt_T"):
        with pytest.raises(UserError, match="dropout"):
            models.create(name, 10, dropout=0.5)
        return
    for rate in (1.0, -0.1):
        network = models.create(name, 10, **{option: rate})
        with pytest.raises(UserError, match=f"'{option}' is a probability: at least 0 and below 1; got {rate}"):
            jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
