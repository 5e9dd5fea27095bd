"""EfficientNet-B0 and EfficientNet-Lite0 to Lite4, for ImageNet.

Papers: Tan, Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019. arXiv:1905.11946.
The Lite networks were published as code: tensorflow/tpu, models/official/efficientnet/lite. They differ from the
paper's networks in three points: ReLU6 instead of swish; no squeeze-and-excitation; all sizes have the same widths of
stem and head, and the same numbers of blocks in the first and last group.

The defaults are the published TensorFlow networks: SAME padding, epsilon 1e-3 and momentum 0.99 of the batch norms.
PyTorch's networks of the same names (torchvision's, timm's without `tf_`) have padding="TORCH" and epsilon=1e-5. A
block ends in a batch norm without an activation, so a stage's tap and its `_preact` are the same array.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import BatchNorm, Conv, branch_dropped, checked_rate, fan_out_normal
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps

# expansion, width, blocks, kernel size, stride of the first block, and the stage that ends here
GROUPS = (
    (1, 16, 1, 3, 1, None),
    (6, 24, 2, 3, 2, 1),
    (6, 40, 2, 5, 2, 2),
    (6, 80, 3, 3, 2, None),
    (6, 112, 3, 5, 1, 3),
    (6, 192, 4, 5, 2, None),
    (6, 320, 1, 3, 1, 4),
)
STEM, HEAD = 32, 1280  # widths
SQUEEZE = 0.25  # width inside a squeeze-and-excitation, as a share of the block's input
TORCH_NAMES = {  # timm's
    r"^stem_conv$": "conv_stem",
    r"^stem_bn$": "bn1",
    r"^head_conv$": "conv_head",
    r"^head_bn$": "bn2",
    r"^group(\d+)_block(\d+)": r"blocks.\1.\2",
    r"squeeze$": "se.conv_reduce",
    r"excite$": "se.conv_expand",
    r"^(blocks\.0\..*)depthwise_bn$": r"\1bn1",  # the blocks of the first group have no expansion
    r"^(blocks\.0\..*)project_conv$": r"\1conv_pw",
    r"^(blocks\.0\..*)project_bn$": r"\1bn2",
    r"expand_conv$": "conv_pw",
    r"expand_bn$": "bn1",
    r"depthwise_conv$": "conv_dw",
    r"depthwise_bn$": "bn2",
    r"project_conv$": "conv_pwl",
    r"project_bn$": "bn3",
}

# deviation sqrt(2 / size^2): the reference counts one output channel for a depthwise convolution
depthwise_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def classifier_normal(key, shape, dtype=jnp.float32):
    """The reference's linear layer: uniform in +-1/sqrt(outputs); shape is [D, K]."""
    bound = shape[1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but never more than a tenth below `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def conv_bn(net: nn.Module, name: str, x, train: bool, features: int, size: int = 1, stride: int = 1, groups: int = 1):
    """The convolution `name`_conv and the batch norm `name`_bn, in `net`, with its padding, epsilon and momentum."""
    init = fan_out_normal if groups == 1 else depthwise_normal
    conv = Conv(features, size, stride, groups, False, init, net.dtype, net.padding, name=f"{name}_conv")
    return BatchNorm(net.momentum, net.epsilon, net.dtype, name=f"{name}_bn")(conv(x), train)


class Block(nn.Module):
    """Expand by 1x1, filter depthwise, weight the channels, project by 1x1; the input is added if the shapes agree.

    Attributes:
        width: channels of the output.
        expand: channels inside; 0: those of the input, without an expansion.
        size, stride: of the depthwise convolution.
        lite: ReLU6 and no squeeze-and-excitation.
        drop: probability, in training, that an image takes only the shortcut of this block.
        padding, epsilon, momentum, dtype: see `EfficientNet`.
    """

    width: int
    expand: int
    size: int
    stride: int
    lite: bool
    drop: float
    padding: str
    epsilon: float
    momentum: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        act = nn.relu6 if self.lite else nn.silu
        y, inputs, inside = x, x.shape[-1], self.expand or x.shape[-1]
        if self.expand:
            y = act(conv_bn(self, "expand", y, train, inside))
        y = act(conv_bn(self, "depthwise", y, train, inside, self.size, self.stride, groups=inside))
        if not self.lite:
            weights = jnp.mean(y.astype(jnp.float32), axis=(1, 2), keepdims=True)
            conv = {"size": 1, "use_bias": True, "dtype": self.dtype}
            weights = act(Conv(max(1, int(inputs * SQUEEZE)), **conv, name="squeeze")(weights))
            y = y * nn.sigmoid(Conv(inside, **conv, name="excite")(weights))
        y = conv_bn(self, "project", y, train, self.width)
        if x.shape != y.shape:
            return y
        return x + branch_dropped(y, self.drop, train)


class EfficientNet(Network):
    """An EfficientNet, or an EfficientNet-Lite.

    Attributes:
        num_classes: K.
        width, depth: factors of all widths and of the numbers of blocks.
        lite: the Lite network.
        padding: "SAME", TensorFlow's, or "TORCH", half of the kernel's size on every side. The two differ if a
            convolution of stride 2 has an input with an even side.
        epsilon: of the batch norms.
        momentum: share of a running statistic that one step keeps. The published 0.99 needs some 500 steps to forget
            the initial statistics; a shorter training needs 0.9.
        dropout: share of the embedding's entries that training zeroes before the classifier, in [0, 1). The tap
            `embedding` has no dropout. The published networks have 0.2 (B0, Lite0, Lite1) and 0.3.
        stochastic_depth: in training, an image takes only the shortcut of block i of n (i from 0) with the probability
            `stochastic_depth` * i / n, in [0, 1). The published networks have 0.2. This and `dropout` need random
            numbers: `rngs={"dropout": key}` of `models.forward` or `apply`.
        dtype: compute type; parameters, statistics and logits are float32.
        widths: of a pruned network, channels inside each block that expands, then those of the head.

    Paper: Tan, Le, ICML 2019, arXiv:1905.11946
    """

    num_classes: int
    width: float = 1.0
    depth: float = 1.0
    lite: bool = False
    padding: str = "SAME"
    epsilon: float = 1e-3
    momentum: float = 0.99
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = ()

    torch_names = TORCH_NAMES
    classifier_init = (classifier_normal, nn.initializers.zeros)

    def _width(self, channels: int, fixed: bool = False) -> int:
        return channels if fixed else rounded(channels * self.width)

    def _blocks(self) -> list[tuple[str, dict, int | None]]:
        """(name, the fields of `Block` that differ, the stage that ends here) of every block that was not pruned."""
        found, inputs = [], self._width(STEM, fixed=self.lite)
        for number, (expansion, width, count, size, stride, stage) in enumerate(GROUPS):
            ends = number in (0, len(GROUPS) - 1)
            count = count if self.lite and ends else math.ceil(count * self.depth)
            for block in range(count):
                fields = {"width": self._width(width), "expand": inputs * expansion if expansion > 1 else 0}
                fields |= {"size": size, "stride": stride if block == 0 else 1}
                inputs = fields["width"]
                found.append((f"group{number}_block{block}", fields, stage if block == count - 1 else None))
        return found

    def free_widths(self) -> tuple[int, ...]:
        inside = [fields["expand"] for _, fields, _ in self._blocks() if fields["expand"]]
        return completed(self.widths, [*inside, self._width(HEAD, fixed=self.lite)])

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..4` (and `_preact`), `final`, `embedding`."""
        dropout, deepest = (checked_rate(name, getattr(self, name)) for name in ("dropout", "stochastic_depth"))
        tap, act, blocks = Taps(deltas), nn.relu6 if self.lite else nn.silu, self._blocks()
        shared = {name: getattr(self, name) for name in ("lite", "padding", "epsilon", "momentum", "dtype")}
        free = iter(self.free_widths())
        x = tap.shift("input", images).astype(self.dtype)
        x = tap("stem", act(conv_bn(self, "stem", x, train, self._width(STEM, fixed=self.lite), 3, 2)))
        for number, (name, fields, stage) in enumerate(blocks):
            fields["expand"] = fields["expand"] and next(free)
            x = Block(**fields, **shared, drop=deepest * number / len(blocks), name=name)(x, train)
            if stage is not None:
                x = tap(f"stage{stage}", tap(f"stage{stage}_preact", x))
        x = act(conv_bn(self, "head", x, train, next(free)))
        return self.pooled(tap, x, drop=dropout if train else 0.0)


SOURCE = "Tan, Le, ICML 2019, arXiv:1905.11946"


def _lite(number: int, width: float, depth: float):
    what = f"EfficientNet-Lite{number}: width {width:g}, depth {depth:g}, ReLU6, no squeeze-and-excitation."
    return variant(EfficientNet, f"efficientnet_lite{number}", what, SOURCE, width=width, depth=depth, lite=True)


efficientnet_b0 = variant(EfficientNet, "efficientnet_b0", "EfficientNet-B0: swish, squeeze-and-excitation.", SOURCE)
efficientnet_lite0 = _lite(0, 1.0, 1.0)
efficientnet_lite1 = _lite(1, 1.0, 1.1)
efficientnet_lite2 = _lite(2, 1.1, 1.2)
efficientnet_lite3 = _lite(3, 1.2, 1.4)
efficientnet_lite4 = _lite(4, 1.4, 1.8)
