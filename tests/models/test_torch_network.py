"""PyTorch's networks inside our programs: the numbers are PyTorch's own, and so are the gradients."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import folding
from registry import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("torch", "torchvision", "timm", "torchax"):
        pytest.importorskip(name, reason="needs the extra `teachers`")
    import torch

    torch_network = importlib.import_module("models.torch_network")

ARCH, TAPS = "timm:test_resnet", ("layer1", "layer3")


@pytest.fixture(scope="module")
def network(draw_tensor):
    """(model, variables, images [2, 32, 32, 1], PyTorch's tensors, the outputs and gradients of a program)."""
    model = models.create(ARCH, 7, channels=1, taps=list(TAPS))
    images = np.random.RandomState(0).standard_normal((2, 32, 32, 1)).astype(np.float32)
    program = torch_network.program_of(ARCH, 7, 1, TAPS)
    tensors = {name: draw_tensor(name, shape) for name, shape in program.shapes.items()}
    variables = program.variables(tensors)

    @jax.jit
    def ask(variables, images):
        outputs, _ = models.forward(model, variables, images, gradient_taps=("input", "stage1", "embedding"))
        gradients = outputs.gradients(jnp.zeros_like(outputs.logits).at[:, 2].set(1.0))
        again = outputs.classify(outputs.features["embedding"])
        return outputs.logits, outputs.features, gradients, again

    return model, variables, images, tensors, ask(variables, images)


@pytest.fixture(scope="module")
def reference(network):
    """What PyTorch computes: logits, features, gradients of the third logit."""
    _, _, images, tensors, _ = network
    net = torch_network.create(ARCH, 7, 1)
    net.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()}, strict=False)
    found = {}

    def keep(name):
        def hook(module, inputs, output):
            found[name] = inputs[0] if name == "embedding" else output
            found[name].retain_grad()

        return hook

    for name, path in (("stage1", "layer1"), ("stage2", "layer3"), ("embedding", "fc")):
        net.get_submodule(path).register_forward_hook(keep(name))
    shown = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    logits = net(shown)
    logits[:, 2].sum().backward()
    gradients = {"input": shown.grad, **{name: value.grad for name, value in found.items()}}
    found, gradients = (
        {
            name: x.detach().numpy().transpose(0, 2, 3, 1) if x.ndim == 4 else x.detach().numpy()
            for name, x in tree.items()
        }
        for tree in (found, gradients)
    )
    return logits.detach().numpy(), found, gradients


def test_logits_features_and_gradients_are_those_of_pytorch(network, reference):
    *_, (logits, features, gradients, again) = network
    wanted, its_features, its_gradients = reference
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-5)
    assert set(features) == {"stage1", "stage2", "embedding"}
    for name, value in features.items():
        np.testing.assert_allclose(value, its_features[name], rtol=1e-4, atol=1e-5)
    for name, value in gradients.items():
        scale = np.abs(its_gradients[name]).max()
        assert scale > 0
        np.testing.assert_allclose(value / scale, its_gradients[name] / scale, atol=1e-4)


def test_the_weights_are_variables_and_none_is_in_the_program(network):
    model, variables, images, tensors, _ = network
    assert variables["params"]["classifier"]["kernel"].shape == (96, 7)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
    jaxpr = jax.make_jaxpr(lambda v, x: models.forward(model, v, x)[0].logits)(variables, images)
    assert sum(np.size(x) for x in jaxpr.consts) < 100
    back = torch_network.program_of(ARCH, 7, 1, TAPS).tensors(variables)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], value) for name, value in tensors.items())


def test_first_variables_and_folding_keep_the_names(network):
    model, variables, images, *_ = network
    first = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, dict(first)) == jax.tree.map(np.shape, variables)
    folded = folding.fold(model, variables, (32, 32, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, folded, variables))


def test_classes_can_be_put_in_another_order(network):
    model, variables, images, _, (logits, *_) = network
    order = [3, 0, 6, 1]  # and be fewer
    layer = {name: value[..., order] for name, value in variables["params"]["classifier"].items()}
    moved = {**variables, "params": {**variables["params"], "classifier": layer}}
    np.testing.assert_allclose(models.forward(model, moved, images)[0].logits, logits[:, order], rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near(network):
    _, variables, images, _, (logits, *_) = network
    model = models.create(ARCH, 7, channels=1, taps=TAPS, dtype=jnp.bfloat16)
    outputs, _ = models.forward(model, variables, images)
    assert outputs.logits.dtype == jnp.float32
    assert outputs.features["stage1"].dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.logits, logits, atol=0.05 * np.abs(logits).max())


def test_it_does_not_learn_and_says_what_it_cannot_read(network):
    model, variables, images, *_ = network
    with pytest.raises(ValueError, match="timm:test_resnet is a network of PyTorch, which teaches and does not learn"):
        models.forward(model, variables, images, train=True)
    with pytest.raises(ValueError, match=r"timm:test_resnet cannot be run on images of 32x32x3: "):
        models.forward(model, variables, np.repeat(images, 3, axis=-1))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            "timm:resnt18",
            r"timm has no network 'resnt18'. Did you mean 'timm:resnet18'\?\ntimm.list_models\(\) returns",
        ),
        ("torchvision:resnet19", r"no network 'resnet19'. Did you mean 'torchvision:resnet18'\?"),
        ("timm:", r"timm has no network ''"),
    ],
)
def test_an_unknown_network_is_told_with_the_nearest(arch, message):
    with pytest.raises(UserError, match=message) as raised:
        models.registry.check(arch)
    assert len(str(raised.value).splitlines()) == 2


def test_an_unknown_tap_and_channels_that_a_network_cannot_have_are_told():
    with pytest.raises(UserError, match=r"timm:test_resnet has no module 'layer9'. Did you mean 'layer\d'\?\n.*layer4"):
        models.create(ARCH, 7, channels=1, taps=["layer9"])
    with pytest.raises(UserError, match=r"torchvision:resnet18 reads images of 3 channels; the data have 1."):
        models.create("torchvision:resnet18", 7, channels=1)


class Toy(torch.nn.Module):
    """A network whose maps are [B, H, W, C] inside, like Swin's."""

    output_fmt = "NHWC"
    pretrained_cfg = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 6, 6)}

    def __init__(self, ends: str = "linear"):
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 4, 3)
        self.turned, self.pair = torch.nn.Identity(), Pair()
        self.last = torch.nn.Linear(4, 3) if ends == "linear" else torch.nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x, _ = self.pair(self.turned(self.stem(x).permute(0, 2, 3, 1)))
        if isinstance(self.last, torch.nn.Linear):
            return self.last(x.mean((1, 2)))
        return self.last(x.permute(0, 3, 1, 2)).mean((2, 3))


class Pair(torch.nn.Module):
    """A module that returns two things."""

    def forward(self, x):
        return x, x


def test_maps_that_lie_our_way_stay_and_a_module_of_several_outputs_is_told():
    net, images = Toy().eval(), np.random.RandomState(0).standard_normal((2, 6, 5, 1)).astype(np.float32)
    with torch.no_grad():
        shown = torch.tensor(images.transpose(0, 3, 1, 2))
        logits, maps = net(shown).numpy(), net.stem(shown).permute(0, 2, 3, 1).numpy()
    state = {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}
    program = torch_network.Program("timm:toy", net, ("turned",))
    outputs = program(program.variables(state), images, {}, jnp.float32)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs.features["stage1"], maps, rtol=1e-5, atol=1e-6)
    several = torch_network.Program("timm:toy", Toy().eval(), ("pair",))
    with pytest.raises(ValueError, match="the module of stage1 returns tuple, not one tensor"):
        several(several.variables(state), images, {}, jnp.float32)


def test_a_network_that_ends_in_a_convolution_has_no_embedding():
    program = torch_network.Program("timm:toy", Toy("convolution").eval(), ())
    assert program.classifier == ""
    variables = program.variables({name: np.ones(shape, np.float32) for name, shape in program.shapes.items()})
    assert set(variables["params"]) == {"network"}
    assert program(variables, np.ones((2, 6, 6, 1), np.float32), {}, jnp.float32).features == {}
