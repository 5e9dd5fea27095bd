import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import pretrained
from models import convnext
from pretrained.foreign_names import translate
from registry import UserError

BLOCKS, WIDTHS, CLASSES = (1, 2), (8, 16), 7


@functools.cache
def small():
    """(model, variables, images) of a ConvNeXt of two stages."""
    model = models.create("ConvNeXt_T", CLASSES, blocks=BLOCKS, widths=WIDTHS, patch_size=4)
    images = np.random.RandomState(3).standard_normal((2, 32, 32, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.RandomState(4)
    variables = jax.tree.map(lambda x: 0.3 * random.standard_normal(x.shape).astype(np.float32), shapes)
    return model, variables, images


TAPS = ("input", "stem", "stage1", "stage2_preact", "stage2", "embedding")


@functools.cache
def answered():
    """(outputs, gradients of the sum of the logits at `TAPS`) of the small network."""
    model, variables, images = small()

    @jax.jit
    def run(variables, images):
        outputs, _ = models.forward(model, variables, images, gradient_taps=TAPS)
        return outputs, outputs.gradients(jnp.ones_like(outputs.logits))

    return run(variables, images)


def torch_convnext():
    """timm's module tree, written out again in PyTorch."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    nn = torch.nn

    class Norm(nn.LayerNorm):
        """Over channels of [B, C, H, W]."""

        def __init__(self, width):
            super().__init__(width, eps=1e-6)

        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv_dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), Norm(width)
            self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
            self.gamma = nn.Parameter(torch.zeros(width))

        def forward(self, x):
            y = self.norm(self.conv_dw(x)).permute(0, 2, 3, 1)
            y = self.gamma * self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](y)))
            return x + y.permute(0, 3, 1, 2)

    class Stage(nn.Module):
        def __init__(self, before, width, blocks):
            super().__init__()
            same = before == width
            self.downsample = nn.Identity() if same else nn.Sequential(Norm(before), nn.Conv2d(before, width, 2, 2))
            self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))

        def forward(self, x):
            return self.blocks(self.downsample(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, 4), Norm(WIDTHS[0]))
            before = (WIDTHS[0], *WIDTHS)
            self.stages = nn.Sequential(*(Stage(before[i], WIDTHS[i], BLOCKS[i]) for i in range(2)))
            self.head = nn.ModuleDict({"norm": Norm(WIDTHS[-1]), "fc": nn.Linear(WIDTHS[-1], CLASSES)})

        def forward(self, images):
            x = self.stages(self.stem(images)).mean((2, 3), keepdim=True)
            return self.head["fc"](self.head["norm"](x).flatten(1))

    return torch, Net()


def test_logits_are_those_of_a_pytorch_network_with_timms_names():
    model, variables, images = small()
    torch, net = torch_convnext()
    state = pretrained.to_torch(model, variables)
    net.load_state_dict({name: torch.tensor(value) for name, value in state.items()})  # strict: every name and shape
    back = pretrained.from_torch(model, state)
    jax.tree.map(np.testing.assert_array_equal, back["params"], dict(variables["params"]))
    with torch.no_grad():
        expected = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    found = answered()[0].logits
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_number_of_parameters_is_the_published_one():
    model = models.create("ConvNeXt_T", 1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(x.size for x in jax.tree.leaves(variables)) == 28_589_128


TORCHVISION = {
    "features.0.0.weight": "stem.0.weight",
    "features.0.1.bias": "stem.1.bias",
    "features.1.2.layer_scale": "stages.0.blocks.2.gamma",
    "features.2.0.weight": "stages.1.downsample.0.weight",
    "features.2.1.bias": "stages.1.downsample.1.bias",
    "features.3.0.block.0.weight": "stages.1.blocks.0.conv_dw.weight",
    "features.5.8.block.2.bias": "stages.2.blocks.8.norm.bias",
    "features.6.1.weight": "stages.3.downsample.1.weight",
    "features.7.1.block.3.weight": "stages.3.blocks.1.mlp.fc1.weight",
    "features.7.1.block.5.bias": "stages.3.blocks.1.mlp.fc2.bias",
    "classifier.0.weight": "head.norm.weight",
    "classifier.2.bias": "head.fc.bias",
}
PAPER = {
    "downsample_layers.0.0.weight": "stem.0.weight",
    "downsample_layers.0.1.bias": "stem.1.bias",
    "downsample_layers.3.1.weight": "stages.3.downsample.1.weight",
    "stages.2.8.dwconv.bias": "stages.2.blocks.8.conv_dw.bias",
    "stages.2.8.norm.weight": "stages.2.blocks.8.norm.weight",
    "stages.0.0.pwconv1.weight": "stages.0.blocks.0.mlp.fc1.weight",
    "stages.0.0.pwconv2.bias": "stages.0.blocks.0.mlp.fc2.bias",
    "stages.0.0.gamma": "stages.0.blocks.0.gamma",
    "norm.weight": "head.norm.weight",
    "head.weight": "head.fc.weight",
}


@pytest.mark.parametrize("names", [TORCHVISION, PAPER], ids=["torchvision", "paper"])
def test_other_projects_names_become_timms(names):
    scale = np.ones((8, 1, 1), np.float32)
    state = {name: scale if "scale" in name else np.ones(8, np.float32) for name in names}
    found, origin = translate("ConvNeXt", state)
    assert list(found) == list(names.values())
    assert origin == {new: old for old, new in names.items()}
    assert {x.shape for x in found.values()} == {(8,)}
    again, origin = translate("ConvNeXt", found)
    assert (again.keys(), origin) == (found.keys(), {})  # timm's own stay
    model = models.create("ConvNeXt_T", 10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    paths = jax.tree_util.tree_flatten_with_path(dict(variables))[0]
    known = {model.torch_name(tuple(key.key for key in path)) for path, _ in paths}
    assert set(found) <= known


def test_taps_run_from_the_input_to_the_classifier():
    outputs, _ = answered()
    shapes = {name: x.shape for name, x in outputs.features.items()}
    assert shapes["stem"] == shapes["stage1"] == (2, 8, 8, 8)
    assert shapes["stage2"] == (2, 4, 4, 16)
    assert shapes["embedding"] == (2, 16)
    np.testing.assert_array_equal(outputs.features["stage2"], outputs.features["stage2_preact"])
    np.testing.assert_allclose(outputs.classify(outputs.features["embedding"]), outputs.logits, rtol=1e-6)


def test_gradients_reach_every_tap():
    _, gradients = answered()
    assert set(gradients) == set(TAPS)
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    np.testing.assert_array_equal(gradients["stage2"], gradients["stage2_preact"])
    kernel = small()[1]["params"]["classifier"]["kernel"]
    np.testing.assert_allclose(gradients["embedding"], np.tile(kernel.sum(1), (2, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "patch", "last"), [(8, 1, 1), (32, 2, 2), (64, 4, 2), (224, 4, 7)])
def test_the_stem_fits_small_images(side, patch, last):
    assert convnext.default_patch(side) == patch
    model = models.create("ConvNeXt_T", 10, widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
    image = jnp.zeros((1, side, side, 3))
    outputs = jax.eval_shape(lambda key, x: model.init_with_output(key, x)[0], jax.random.key(0), image)
    assert outputs.features["stage4"].shape == (1, last, last, 8)


def test_images_that_are_too_small_are_refused():
    model = models.create("ConvNeXt_T", 10, patch_size=4)
    with pytest.raises(UserError, match="16 x 16 pixels are too small for a patch_size of 4: it needs 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
