import functools

import jax
import numpy as np
import pytest

import models
import pretrained
from registry import UserError


@functools.cache
def weights(name: str, classes: int = 10, channels: int = 3, **options):
    """(model, its variables as random NumPy arrays, statistics included); nothing is computed by the network."""
    model = models.create(name, classes, **options)
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), "float32")
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda x: random.uniform(0.1, 0.3, x.shape).astype(np.float32), dict(shapes))
    return model, variables


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ResNet8", {}),
        ("ResNet18", {}),
        ("ResNet18", {"stem": "imagenet"}),
        ("WRN_16_1", {}),
        ("VGG8", {}),
        ("MobileNetV1", {}),
        ("MobileNetV2", {}),
        ("MobileNetV2", {"stem": "imagenet"}),
        ("ShuffleNetV1", {}),
        ("ShuffleNetV2", {}),
        ("CNN", {}),
    ],
)
def test_a_round_trip_is_bit_for_bit(name, options):
    model, variables = weights(name, **options)
    state = pretrained.to_torch(model, variables)
    assert all(isinstance(x, np.ndarray) and x.flags.c_contiguous for x in state.values())
    assert_same(pretrained.from_torch(model, state), variables)


def test_a_network_without_statistics_has_none():
    model, variables = weights("CNN")
    state = pretrained.to_torch(model, {"params": variables["params"]})
    assert not any(name.endswith(("running_mean", "running_var")) for name in state)


def test_kernels_change_layout_and_nothing_else_does():
    model, variables = weights("ResNet8")
    params, state = variables["params"], pretrained.to_torch(model, variables)
    kernel = params["stage2_block0"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 16, 32)
    assert state["layer2.0.conv1.weight"].shape == (32, 16, 3, 3)
    assert state["layer2.0.conv1.weight"][5, 7, 1, 2] == kernel[1, 2, 7, 5]
    assert state["fc.weight"][3, 40] == params["classifier"]["kernel"][40, 3]
    np.testing.assert_array_equal(state["bn1.weight"], params["stem_bn"]["scale"])
    np.testing.assert_array_equal(state["bn1.running_var"], variables["batch_stats"]["stem_bn"]["var"])


def test_the_channels_of_the_images_are_read_off_the_weights():
    model, variables = weights("ResNet8", channels=1)
    assert_same(pretrained.from_torch(model, pretrained.to_torch(model, variables)), variables)


@pytest.mark.parametrize(("stem", "own", "foreign"), [("cifar", "linear", "fc"), ("imagenet", "fc", "linear")])
def test_the_stem_is_read_off_the_weights_where_it_was_left_open(stem, own, foreign):
    model, variables = weights("ResNet18", stem=stem)
    undecided = models.create("ResNet18", 10)
    state = pretrained.to_torch(undecided, variables)
    assert f"{own}.weight" in state
    assert f"{foreign}.weight" not in state
    assert state.keys() == pretrained.to_torch(model, variables).keys()
    assert_same(pretrained.from_torch(undecided, state), variables)


def test_wrappers_counters_and_precision_are_forgiven():
    model, variables = weights("ResNet8")
    state = pretrained.to_torch(model, variables)
    wrapped = {f"module.{name}": value.astype(np.float64) for name, value in state.items()}
    wrapped["module.bn1.num_batches_tracked"] = np.asarray(17)
    assert_same(pretrained.from_torch(model, wrapped), variables)


def test_missing_and_unexpected_names_are_listed():
    model, variables = weights("ResNet8")
    state = pretrained.to_torch(model, variables)
    state["linear.weight"], state["linear.bias"] = state.pop("fc.weight"), state.pop("fc.bias")
    with pytest.raises(ValueError, match=r"ResNet: missing fc.bias, fc.weight \(2\); unexpected linear.bias") as caught:
        pretrained.from_torch(model, state)
    assert isinstance(caught.value, UserError)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_first_wrong_shape_is_told():
    model, variables = weights("ResNet8")
    state = pretrained.to_torch(weights("ResNet8", classes=7)[0], variables)
    state["fc.weight"] = state["fc.weight"][:7]
    state["layer3.0.bn1.bias"] = state["layer3.0.bn1.bias"][:5]
    with pytest.raises(UserError, match=r"'.*' has shape \((7, 64|5,)\), needed \((10, 64|64,)\)") as caught:
        pretrained.from_torch(model, state)
    assert str(caught.value).count("has shape") == 1


def test_weights_of_another_network_are_refused():
    state = pretrained.to_torch(*weights("VGG8"))
    with pytest.raises(UserError, match=r"missing .* \.\.\. \(\d+\); unexpected block0.0.bias"):
        pretrained.from_torch(models.create("ResNet18", 10), state)


def test_a_network_without_torch_names_says_what_it_lacks():
    class Bare:
        pass

    with pytest.raises(UserError, match=r"Bare has no PyTorch names.*torch_name"):
        pretrained.from_torch(Bare(), {})


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, an optional extra, is not installed")


def bottleneck_resnet(torch, small: bool):
    """ResNet50, written anew under torchvision's names, or the benchmarks' for small images."""
    nn = torch.nn
    shortcut = "shortcut" if small else "downsample"

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            if stride > 1 or inputs != 4 * width:
                projection = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
                self.add_module(shortcut, nn.Sequential(projection, nn.BatchNorm2d(4 * width)))

        def forward(self, x):
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
            return (y + (getattr(self, shortcut)(x) if hasattr(self, shortcut) else x)).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            size = (3, 1, 1) if small else (7, 2, 3)
            self.conv1, self.bn1 = nn.Conv2d(3, 64, *size, bias=False), nn.BatchNorm2d(64)
            inputs = 64
            for stage, count in enumerate((3, 4, 6, 3)):
                blocks = []
                for block in range(count):
                    blocks.append(Block(inputs, 64 * 2**stage, 2 if stage and not block else 1))
                    inputs = 256 * 2**stage
                self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.add_module("linear" if small else "fc", nn.Linear(2048, 10))

        def forward(self, x):
            x = self.bn1(self.conv1(x)).relu()
            x = x if small else nn.functional.max_pool2d(x, 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return (self.linear if small else self.fc)(x.mean((2, 3)))

    return Net()


def shufflenet_v2(torch):
    """The benchmarks' ShuffleNet V2, written anew under its names."""
    nn = torch.nn

    def shuffled(x):
        return torch.stack(x.chunk(2, dim=1), dim=2).flatten(1, 2)

    class Block(nn.Module):
        def __init__(self, inputs, width, strided):
            super().__init__()
            half, n = width // 2, 3 if strided else 1
            self.strided = strided
            if strided:
                self.conv1, self.bn1 = self.depthwise(inputs, 2), nn.BatchNorm2d(inputs)
                self.conv2, self.bn2 = nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half)
            main = [
                nn.Conv2d(inputs if strided else half, half, 1, bias=False),
                self.depthwise(half, 1 + strided),
                nn.Conv2d(half, half, 1, bias=False),
            ]
            for i, conv in enumerate(main, start=n):
                self.add_module(f"conv{i}", conv)
                self.add_module(f"bn{i}", nn.BatchNorm2d(half))
            self.first = n

        def depthwise(self, channels, stride):
            return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)

        def forward(self, x):
            if self.strided:
                left, right = self.bn2(self.conv2(self.bn1(self.conv1(x)))).relu(), x
            else:
                left, right = x.chunk(2, dim=1)
            for i in range(self.first, self.first + 3):
                right = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(right))
                right = right if i == self.first + 1 else right.relu()
            return shuffled(torch.cat([left, right], dim=1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 24, 1, bias=False), nn.BatchNorm2d(24)
            inputs = 24
            for stage, (width, more) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
                blocks = [Block(inputs, width, True)] + [Block(width, width, False) for _ in range(more)]
                self.add_module(f"layer{stage}", nn.Sequential(*blocks))
                inputs = width
            self.conv2, self.bn2 = nn.Conv2d(464, 1024, 1, bias=False), nn.BatchNorm2d(1024)
            self.linear = nn.Linear(1024, 10)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
            return self.linear(self.bn2(self.conv2(x)).relu().mean((2, 3)))

    return Net()


def mobilenet_v2(torch):
    """torchvision's MobileNetV2, written anew under its names, without dropout."""
    nn = torch.nn

    def conv(inputs, width, size=1, stride=1, groups=1):
        layer = nn.Conv2d(inputs, width, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU6())

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, expansion):
            super().__init__()
            inside = inputs * expansion
            layers = [conv(inputs, inside)] if expansion > 1 else []
            layers += [conv(inside, inside, 3, stride, inside)]
            self.conv = nn.Sequential(*layers, nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width))
            self.add = stride == 1 and inputs == width

        def forward(self, x):
            return x + self.conv(x) if self.add else self.conv(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers, inputs = [conv(3, 32, 3, 2)], 32
            plan = "1 16 1 1, 6 24 2 2, 6 32 3 2, 6 64 4 2, 6 96 3 1, 6 160 3 2, 6 320 1 1"
            for group in plan.split(", "):
                expansion, width, count, stride = map(int, group.split())
                for block in range(count):
                    layers.append(Block(inputs, width, 1 if block else stride, expansion))
                    inputs = width
            self.features = nn.Sequential(*layers, conv(320, 1280))
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 10))

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    return Net()


NETWORKS = {
    "ShuffleNetV2": (shufflenet_v2, {}, 32),
    "ResNet50-cifar": (functools.partial(bottleneck_resnet, small=True), {}, 16),
    "ResNet50-imagenet": (functools.partial(bottleneck_resnet, small=False), {}, 65),
    "MobileNetV2-imagenet": (mobilenet_v2, {"stem": "imagenet"}, 65),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS)
def test_a_pytorch_network_computes_the_same_and_takes_its_weights_back(case, torch):
    build, options, size = NETWORKS[case]
    torch.manual_seed(0)
    network = build(torch).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 4:
                value.normal_(0, (2 / value[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.uniform_(*((0.5, 1.5) if name.endswith("weight") else (-0.2, 0.2)))
    images = np.random.RandomState(1).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    model = models.create(case.partition("-")[0], 10, **options)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    variables = pretrained.from_torch(model, state)
    found = jax.jit(model.apply)(variables, images).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.02 * np.abs(expected).max()  # the images do get through

    back = pretrained.to_torch(model, variables)
    assert back.keys() == {name for name in state if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in back.items()})
    with torch.no_grad():
        again = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_array_equal(again, expected)
