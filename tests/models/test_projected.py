"""A backbone with a projector before the classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import models
from models.network import Network
from models.outputs import Taps
from models.parts import parts
from models.projected import Projected
from registry import UserError

SHAPE = (16, 16, 3)
IMAGES = jnp.asarray(np.random.RandomState(0).uniform(size=(3, *SHAPE)), jnp.float32)


def shapes(model):
    return traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), IMAGES))


def traced(backbone, **options):
    model = models.create("Projected", 5, backbone=backbone, **options)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), IMAGES)


def test_it_is_the_backbone_the_projector_and_a_classifier():
    model, backbone = models.create("Projected", 5, backbone="CNN", width=24, factor=4), models.create("CNN", 5)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    outputs, stats = jax.jit(lambda v, x: models.forward(model, v, x, train=True))(variables, IMAGES)
    own = {name: tree["backbone"] for name, tree in variables.items()}
    head = jax.eval_shape(backbone.init, jax.random.key(0), IMAGES)["params"]["classifier"]
    own["params"] = {**own["params"], "classifier": jax.tree.map(lambda x: jnp.zeros(x.shape), head)}
    expected, its_stats = jax.jit(lambda v, x: models.forward(backbone, v, x, train=True))(own, IMAGES)
    for tap, value in expected.features.items():
        if tap not in ("final", "embedding"):
            np.testing.assert_allclose(outputs.features[tap], value, rtol=1e-5, atol=1e-6, err_msg=tap)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stats["backbone"], its_stats)
    # three convolutions by NumPy, with the batch's statistics
    x = np.asarray(expected.features["final"], np.float64)
    for i in (1, 2, 3):
        kernel = np.asarray(variables["params"]["projector"][f"conv{i}"]["kernel"], np.float64)
        pad = kernel.shape[0] // 2
        wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape[:2], axis=(1, 2))
        x = np.einsum("bhwcij,ijcd->bhwd", windows, kernel)
        x = np.maximum((x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), 0)
    assert [variables["params"]["projector"][f"conv{i}"]["kernel"].shape[3] for i in (1, 2, 3)] == [6, 6, 24]
    np.testing.assert_allclose(outputs.features["projected"], x, rtol=1e-3, atol=1e-4)
    assert outputs.features["final"] is not None
    np.testing.assert_array_equal(outputs.features["final"], outputs.features["projected"])
    np.testing.assert_allclose(outputs.features["embedding"], x.mean((1, 2)), rtol=1e-3, atol=1e-4)
    layer = variables["params"]["classifier"]
    np.testing.assert_allclose(outputs.logits, x.mean((1, 2)) @ layer["kernel"] + layer["bias"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backbone", ["ResNet8", "WRN_16_1", "VGG8", "MobileNetV2", "ShuffleNetV1", "EfficientNet_B0"])
def test_any_convolutional_network_is_a_backbone_and_leaves_its_classifier_out(backbone):
    outputs, variables = traced(backbone, width=8)
    assert outputs.features["projected"].shape[3] == outputs.features["embedding"].shape[1] == 8
    assert outputs.logits.shape == (3, 5)
    assert set(variables["params"]) == {"backbone", "projector", "classifier"}
    assert not [name for name in variables["params"]["backbone"] if "classifier" in name]


@pytest.mark.slow
def test_dropout_of_the_backbone_acts_on_the_projected_embedding():
    """The classifier reads the dropped embedding; the tap `embedding` is before it."""

    class Dropping(Network):
        num_classes: int = 5

        @nn.compact
        def __call__(self, images, train=False, deltas=None):
            return self.pooled(Taps(deltas), images, drop=0.5 if train else 0.0)

    model = Projected(Dropping(), 5, width=8)
    variables = model.init(jax.random.key(0), IMAGES)

    @jax.jit
    def run(key):
        return models.forward(model, variables, IMAGES, train=True, rngs={"dropout": key})[0]

    one, other = run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(one.features["embedding"], other.features["embedding"])
    assert not np.allclose(one.logits, other.logits)


def test_the_projector_and_the_classifier_are_parts():
    found = parts(models.create("Projected", 5, backbone="CNN"), SHAPE)
    assert {path[1] for path, part in found.items() if part == "projected"} == {"projector"}
    assert {path[1] for path, part in found.items() if part == "classifier"} == {"classifier"}
    assert {path[1] for path, part in found.items() if part == "stage2"} == {"backbone"}


def test_options_of_the_backbone_and_the_compute_type_reach_it():
    model = models.create("Projected", 5, backbone="CNN", backbone_options={"widths": [4, 4, 4, 6]}, dtype=jnp.bfloat16)
    assert shapes(model)["params", "backbone", "stage3_conv", "kernel"].shape == (3, 3, 4, 6)
    assert model.backbone.dtype == model.dtype == jnp.bfloat16
    assert hash(model) == hash(model.clone())
    assert model.torch_name(("params", "backbone", "stem_conv", "kernel")) == "backbone.stem_conv.weight"
    assert model.torch_name(("batch_stats", "projector", "bn2", "mean")) == "projector.bn2.running_mean"


@pytest.mark.parametrize("backbone", ["ViT_Ti", "ConvNeXt_T"])
def test_a_network_that_pools_no_map_is_no_backbone(backbone):
    with pytest.raises(UserError, match=r"whose embedding is the mean of a map(?s:.*)backbone=ResNet8"):
        traced(backbone)


@pytest.mark.parametrize("backbone", ["evil:Network", "Projected"])
def test_a_file_of_weights_cannot_choose_what_is_imported(backbone):
    with pytest.raises(UserError, match="The backbone of Projected is a network of this library"):
        models.create("Projected", 5, backbone=backbone)


@pytest.mark.parametrize(
    "options", [{"width": 10, "factor": 4}, {"width": 0}, {"factor": 0}, {"width": "wide"}], ids=str
)
def test_a_width_that_the_factor_does_not_divide_is_refused(options):
    with pytest.raises(UserError, match=r"the factor must divide the width; got .*\nExample"):
        models.create("Projected", 5, **options)


def test_unknown_backbones_and_options_are_told():
    with pytest.raises(UserError, match="Did you mean 'ResNet8"):
        models.create("Projected", 5, backbone="ResNet8x")
    with pytest.raises(UserError, match="Cannot build Projected with num_classes, depth"):
        models.create("Projected", 5, depth=3)
