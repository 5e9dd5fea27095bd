"""MobileNet V2, in the distillation benchmarks' form and in the standard one, and MobileNet V1.

Papers: Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018.
arXiv:1801.04381. Howard et al. MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications.
2017. arXiv:1704.04861.

The benchmarks' V2 (stem="cifar") differs from the paper's: ReLU instead of ReLU6, an expansion convolution in the first
block too, stride 1 where the channels become 24, widths rounded down. The standard one (stem="imagenet") is
torchvision's, without the dropout before its linear layer. The benchmarks' network for Tiny-ImageNet (stem="tiny") has
a 1x1 stem of stride 1 on images padded by one pixel, ReLU6, all widths, and three strides; its convolutions' biases,
which the batch norms behind them cancel, are left out. A block ends in a batch norm without a ReLU, so a stage's
tap and its `_preact` are the same array.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.layers import BatchNorm, Conv, default_uniform, fan_out_normal, small_normal
from models.network import Network, completed, rename
from models.outputs import Outputs, Taps, unnamed
from registry import UserError

STEMS = ("cifar", "imagenet", "tiny")
# expansion, width, blocks, stride of the first block (for each of `STEMS`), and the stage that ends here
GROUPS = (
    (1, 16, 1, (1, 1, 1), None),
    (6, 24, 2, (1, 2, 2), 1),
    (6, 32, 3, (2, 2, 2), 2),
    (6, 64, 4, (2, 2, 2), None),
    (6, 96, 3, (1, 1, 1), 3),
    (6, 160, 3, (2, 2, 1), None),
    (6, 320, 1, (1, 1, 1), 4),
)
BENCHMARK_NAMES = {
    r"^stem_conv$": "conv1.0",
    r"^stem_bn$": "conv1.1",
    r"^last_conv$": "conv2.0",
    r"^last_bn$": "conv2.1",
    r"^group(\d+)_block(\d+)": r"blocks.\1.\2.conv",
    r"expand_conv$": "0",
    r"expand_bn$": "1",
    r"depthwise_conv$": "3",
    r"depthwise_bn$": "4",
    r"project_conv$": "6",
    r"project_bn$": "7",
    r"^classifier$": "classifier.0",
}
STANDARD_NAMES = {
    r"^stem_conv$": "features.0.0",
    r"^stem_bn$": "features.0.1",
    r"^last_conv$": "features.18.0",
    r"^last_bn$": "features.18.1",
    r"^group(\d+)_block(\d+)": lambda m: f"features.{1 + sum(g[2] for g in GROUPS[: int(m[1])]) + int(m[2])}.conv",
    r"(^features.1.conv.)depthwise_conv$": r"\g<1>0.0",  # the only block without an expansion
    r"(^features.1.conv.)depthwise_bn$": r"\g<1>0.1",
    r"(^features.1.conv.)project_conv$": r"\g<1>1",
    r"(^features.1.conv.)project_bn$": r"\g<1>2",
    r"expand_conv$": "0.0",
    r"expand_bn$": "0.1",
    r"depthwise_conv$": "1.0",
    r"depthwise_bn$": "1.1",
    r"project_conv$": "2",
    r"project_bn$": "3",
    r"^classifier$": "classifier.1",
}
V1_NAMES = {
    r"^stem_conv$": "model.0.0",
    r"^stem_bn$": "model.0.1",
    r"^block(\d+)": r"model.\1",
    r"depthwise_conv$": "0",
    r"depthwise_bn$": "1",
    r"pointwise_conv$": "3",
    r"pointwise_bn$": "4",
    r"^classifier$": "fc",
}
V1_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # the stem's, then the blocks'
V1_STAGES = {3: 1, 5: 2, 11: 3, 13: 4}  # number of a block, from 1 -> the stage that it ends


def conv_bn(module: nn.Module, name: str, x, train: bool, *shape, groups: int = 1, init=fan_out_normal):
    """The convolution `name`_conv of (features, size, stride) and the batch norm `name`_bn, inside `module`."""
    x = Conv(*shape, groups=groups, kernel_init=init, dtype=module.dtype, name=f"{name}_conv")(x)
    return module.norm(dtype=module.dtype, name=f"{name}_bn")(x, train)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1; the input is added if the shapes agree."""

    width: int
    stride: int
    expand: int | None  # channels inside; None: those of the input, without an expansion
    relu: Any = nn.relu
    dtype: Any = jnp.float32
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, train: bool):
        y, inside = x, self.expand or x.shape[-1]
        if self.expand is not None:
            y = self.relu(conv_bn(self, "expand", y, train, inside, 1))
        y = self.relu(conv_bn(self, "depthwise", y, train, inside, 3, self.stride, groups=inside))
        y = conv_bn(self, "project", y, train, self.width, 1)
        return x + y if x.shape == y.shape else y


class MobileNetV2(Network):
    """MobileNet V2: inverted residual blocks with linear bottlenecks.

    Attributes:
        num_classes: K; 0: the backbone of another network, up to the last block (`Network.pooled`).
        width: factor of all widths; by default 0.5 in the benchmarks' network for CIFAR, 1 in the others.
        stem: "cifar", the benchmarks' network, "imagenet", the standard one, or "tiny", the benchmarks' for 64x64.
        dtype: compute type; parameters, statistics and logits are float32.
        widths: of a pruned network, channels inside each block that expands, then those of the last convolution.
        norm: the batch norm's class, or a function like it.

    Paper: Sandler et al., CVPR 2018, arXiv:1801.04381
    """

    num_classes: int
    width: float | None = None
    stem: str = "cifar"
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = ()
    norm: Any = BatchNorm

    classifier_init = (small_normal, nn.initializers.zeros)

    def setup(self):
        if self.stem not in STEMS:
            raise UserError(f"stem='{self.stem}': MobileNetV2 has 'cifar', 'imagenet' and 'tiny'.")
        super().setup()

    def _widths(self, *channels: int) -> list[int]:
        if self.stem == "cifar":
            factor = 0.5 if self.width is None else self.width
            return [int(c * factor) for c in channels]
        factor = 1.0 if self.width is None else self.width
        # the nearest multiple of 8, but never more than a tenth below
        rounded = [(max(8, int(c * factor + 4) // 8 * 8), c * factor) for c in channels]
        return [r + 8 if r < 0.9 * exact else r for r, exact in rounded]

    def free_widths(self) -> tuple[int, ...]:
        *inputs, _ = self._widths(32, *(group[1] for group in GROUPS))  # of each group's first block
        outputs, inside = self._widths(*(group[1] for group in GROUPS)), []
        for width, own, (expansion, _, count, *_) in zip(inputs, outputs, GROUPS, strict=True):
            if not (self.stem == "imagenet" and expansion == 1):
                inside += [expansion * width] + [expansion * own] * (count - 1)
        return completed(self.widths, [*inside, max(1280, *self._widths(1280))])

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..4` (and `_preact`), `final`, `embedding`."""
        tap, free = Taps(deltas), iter(self.free_widths())
        standard, tiny = self.stem == "imagenet", self.stem == "tiny"
        relu = nn.relu if self.stem == "cifar" else nn.relu6
        x = tap.shift("input", images).astype(self.dtype)
        if tiny:
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = tap("stem", relu(conv_bn(self, "stem", x, train, *self._widths(32), *((1, 1) if tiny else (3, 2)))))
        widths = self._widths(*(group[1] for group in GROUPS))
        for number, (width, (expansion, _, count, strides, stage)) in enumerate(zip(widths, GROUPS, strict=True)):
            for block in range(count):
                stride = strides[STEMS.index(self.stem)] if block == 0 else 1
                expand = None if standard and expansion == 1 else next(free)
                name = f"group{number}_block{block}"
                x = InvertedResidual(width, stride, expand, relu, self.dtype, self.norm, name=name)(x, train)
            if stage is not None:
                x = tap(f"stage{stage}", tap(f"stage{stage}_preact", x))
        if self.num_classes:
            x = relu(conv_bn(self, "last", x, train, next(free), 1))
        return self.pooled(tap, x)

    def torch_name(self, path: tuple[str, ...]) -> str:
        """("params", "group1_block0", "expand_conv", "kernel") -> "blocks.1.0.conv.0.weight"."""
        return rename(path, STANDARD_NAMES if self.stem == "imagenet" else BENCHMARK_NAMES)


class SeparableBlock(nn.Module):
    """Depthwise 3x3 and 1x1 convolution, each with batch norm; `tap` gets the array before the last ReLU."""

    width: int
    stride: int
    dtype: Any = jnp.float32

    norm = BatchNorm

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        shape = (x.shape[-1], 3, self.stride)
        x = nn.relu(conv_bn(self, "depthwise", x, train, *shape, groups=x.shape[-1], init=default_uniform))
        x = conv_bn(self, "pointwise", x, train, self.width, 1, init=default_uniform)
        return nn.relu(tap(x))


class MobileNetV1(Network):
    """MobileNet V1, for ImageNet; as in the benchmarks' network there is no `stem` tap.

    Attributes:
        num_classes: K.
        dtype: compute type; parameters, statistics and logits are float32.
        widths: of a pruned network, channels of the stem, then those of each block.

    Paper: Howard et al., 2017, arXiv:1704.04861
    """

    num_classes: int
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = ()

    norm = BatchNorm
    torch_names = V1_NAMES

    def free_widths(self) -> tuple[int, ...]:
        return completed(self.widths, V1_WIDTHS)

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stage1..4` (and `_preact`), `final`, `embedding`."""
        tap, (stem, *widths) = Taps(deltas), self.free_widths()
        x = tap.shift("input", images).astype(self.dtype)
        x = nn.relu(conv_bn(self, "stem", x, train, stem, 3, 2, init=default_uniform))
        for number, width in enumerate(widths, start=1):
            stage = V1_STAGES.get(number)
            record = tap.named(f"stage{stage}_preact") if stage else unnamed
            # a block that doubles the width (before pruning) halves the resolution, except block 1
            stride = 2 if V1_WIDTHS[number] > V1_WIDTHS[number - 1] and number > 1 else 1
            x = SeparableBlock(width, stride, self.dtype, name=f"block{number}")(x, train, record)
            if stage:
                x = tap(f"stage{stage}", x)
        return self.pooled(tap, x)
