"""Branches on one trunk: what is shared, that gradients are those of sharing, and that the trunk is computed once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from simulation import compiled

import models
import transfer
from models.layers import Dense
from models.outputs import Outputs, Taps
from models.resnet import ResNet
from registry import UserError
from transfer.branches import Branches, trunk_of

KEY = jax.random.key(3)


def groups(paths):
    return {path[1].split("_")[0] for path in paths}


@pytest.mark.parametrize(
    "name", ["ResNet8", "WRN_16_1", "VGG8", "MobileNetV1", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2", "ResNet18"]
)
def test_of_every_family_the_trunk_ends_where_the_last_stage_begins(name):
    model, image = models.create(name, 10), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    trunk = trunk_of(model, image.shape)
    variables = traverse_util.flatten_dict(jax.eval_shape(model.init, KEY, image))
    own = set(variables) - trunk.paths
    assert trunk.cut
    assert trunk.paths
    assert any(path[0] == "batch_stats" for path in trunk.paths)
    assert {path[1] for path in own} >= {"classifier"}
    assert not {path[1] for path in own} & {path[1] for path in trunk.paths}, "a module is in both"
    assert not any(path[1].startswith("stem") for path in own)


def test_a_vision_transformers_trunk_ends_at_a_block():
    model = models.create("ViT_Ti", 10, patch_size=4, depth=2, stages=2)
    trunk = trunk_of(model, (1, 8, 8, 1))
    assert trunk.cut
    assert trunk.tap == "stage1"


class Skipping(nn.Module):
    """Its classifier reads the first stage past the tap of the second."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None):
        tap = Taps(deltas)
        first = tap("stage1", nn.relu(nn.Conv(4, (3, 3), name="one")(images)))
        second = tap("stage2", nn.relu(nn.Conv(4, (3, 3), name="two")(first)))
        third = tap("stage3", nn.relu(nn.Conv(4, (3, 3), name="three")(second))) + first
        return Outputs(logits=Dense(10, name="classifier")(third.mean((1, 2))), features=tap.features)


def test_a_shortcut_around_the_tap_is_seen():
    trunk = trunk_of(Skipping(), (2, 8, 8, 1))
    assert (trunk.tap, trunk.cut) == ("stage2", False)
    assert groups(trunk.paths) == {"one", "two"}


@pytest.mark.slow
def test_a_network_of_one_stage_has_no_branches(player, batch):
    with pytest.raises(UserError, match="ResNet has 1 stages"):
        Branches(player("student"), 2).init(KEY, batch.image)
    with pytest.raises(UserError, match=r"'branches' must be at least 2 \(default 3\); got 1"):
        transfer.create("ONE", student=player("student"), optimizer=None, branches=1)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cut", "shortcut"])
def test_gradients_and_statistics_are_those_of_networks_that_share_parameters(network, batch):
    model = ResNet(blocks=1, widths=(8, 8, 8), num_classes=10) if network == "cut" else Skipping()
    student = transfer.Player("student", model, (0.5,), (0.25,))
    branches = Branches(student, 3)
    params, extra = jax.jit(branches.init)(KEY, batch.image)
    assert trunk_of(student.model, batch.image.shape).cut == (network == "cut")
    aims = np.random.RandomState(0).standard_normal((3, 6, 10)).astype(np.float32)

    def ours(params):
        outputs, after, _ = branches.look(params, extra, (batch.image,), batch)
        return sum(jnp.sum(a * jnp.square(o.logits)) for a, o in zip(aims, outputs.values(), strict=True)), after

    def plainly(params):
        loss = 0.0
        for aim, name in zip(aims, branches.names, strict=True):
            outputs, _ = student.forward(branches.variables(params, extra, name), batch.image, train=True)
            loss = loss + jnp.sum(aim * jnp.square(outputs.logits))
        return loss

    (value, after), found = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    plain, expected = jax.jit(jax.value_and_grad(plainly))(params)
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert jax.tree.structure(after) == jax.tree.structure(extra)
    for name in branches.names:
        _, stats = compiled(student)(branches.variables(params, extra, name), batch.image)
        mine = branches.variables(params, after, name)["batch_stats"]
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(stats), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_with_an_image_each_the_trunk_takes_all_their_statistics(staged, batch):
    branches = Branches(staged("student"), 2)
    params, extra = jax.jit(branches.init)(KEY, batch.image)
    images = (batch.image, 1 - batch.image)
    _, after, _ = jax.jit(branches.look)(params, extra, images, batch)
    variables = branches.variables(params, extra, "student")
    for image in images:
        _, stats = compiled(staged("student"))(variables, image)
        variables = {**variables, "batch_stats": stats}
    for leaf in ("mean", "var"):
        found = after["student"]["batch_stats"]["bn1"][leaf]
        np.testing.assert_allclose(found, variables["batch_stats"]["bn1"][leaf], rtol=1e-4, atol=1e-6)


def flops(strategy, batch):
    state = jax.eval_shape(strategy.init, KEY, batch)
    return jax.jit(strategy.step).lower(state, batch, KEY).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_the_trunk_is_computed_and_differentiated_once(batch):
    """Three branches on a network that is nearly all trunk cost little more than the network."""
    student = transfer.Player("student", ResNet(blocks=1, widths=(8, 16, 4), num_classes=10), (0.5,), (0.25,))
    parts = {"student": student, "optimizer": optax.sgd(0.1)}
    jax.config.update("jax_disable_most_optimizations", False)  # XLA merges equal computations
    plain = flops(transfer.create("Labels", **parts), batch)
    shared = flops(transfer.create("OKDDip", **parts, branches=3), batch)
    whole = flops(transfer.create("OKDDip", **parts, branches=3, shared=False), batch)
    assert whole > 2.8 * plain
    assert shared < 1.6 * plain
