"""The ResNets of ImageNet: four stages of basic or bottleneck blocks, with a stem for large or for small images.

Paper: He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016. arXiv:1512.03385, section 4.1.

stem="imagenet": 7x7 convolution of stride 2 and 3x3 max-pooling; torchvision's network, with the stride on the 3x3
convolution of a bottleneck. stem="cifar": 3x3 convolution of stride 1, no pooling; the distillation benchmarks'.
The `stem` tap is before the pooling.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models import ops
from models.layers import BatchNorm, Conv, branch_dropped, depth_rates
from models.network import Network, completed, rename, variant
from models.outputs import Outputs, Taps, unnamed
from models.resnet import TORCH_NAMES, BasicBlock
from registry import UserError

CIFAR_NAMES = {
    **TORCH_NAMES,
    r"shortcut_conv$": "shortcut.0",
    r"shortcut_bn$": "shortcut.1",
    r"^classifier$": "linear",
}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut, with `width` channels inside. Returns [B, H/s, W/s, 4 * width]."""

    width: int
    stride: int = 1
    dtype: Any = jnp.float32
    drop: float = 0.0
    inside: tuple[int, int] | None = None  # channels after conv1 and after conv2; None: `width`
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        first, second = self.inside or (self.width, self.width)
        y = Conv(first, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(dtype=self.dtype, name="bn1")(y, train))
        y = Conv(second, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(self.norm(dtype=self.dtype, name="bn2")(y, train))
        y = Conv(4 * self.width, 1, dtype=self.dtype, name="conv3")(y)
        y = self.norm(dtype=self.dtype, name="bn3")(y, train)
        if self.stride != 1 or x.shape[-1] != 4 * self.width:
            x = Conv(4 * self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = self.norm(dtype=self.dtype, name="shortcut_bn")(x, train)
        return ops.kept(nn.relu(tap(branch_dropped(y, self.drop, train) + x)))


class ImageNetResNet(Network):
    """A ResNet of four stages.

    Attributes:
        blocks: in each of the four stages.
        bottleneck: bottleneck blocks instead of basic ones.
        num_classes: K; 0: the backbone of another network, without a classifier (`Network.pooled`).
        stem: "cifar" or "imagenet"; None takes "cifar" for images less than 64 pixels high.
        stochastic_depth: in training, an image takes only the shortcut of the last block with this probability, which
            grows linearly from 0 in the first block. In [0, 1). Needs random numbers: `rngs={"dropout": key}`.
        dtype: compute type; parameters, statistics and logits are float32.
        widths: of a pruned network, channels inside each block: after the first convolution, and in a bottleneck block
            after the second, too; (): those of the paper.
        width: factor of all widths of the paper.
        norm: the batch norm's class, or a function like it.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    num_classes: int
    stem: str | None = None
    stochastic_depth: float = 0.0
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = ()
    width: float = 1.0
    norm: Any = BatchNorm

    def setup(self):
        if self.stem not in (None, "cifar", "imagenet"):
            raise UserError(f"stem='{self.stem}': the ResNets have 'cifar' and 'imagenet'.")
        super().setup()

    def free_widths(self) -> tuple[int, ...]:
        inside = [int(2 ** (stage + 6) * self.width) for stage, count in enumerate(self.blocks) for _ in range(count)]
        return completed(self.widths, np.repeat(inside, 1 + self.bottleneck).tolist())

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..4` (and `_preact`), `final`, `embedding`."""
        tap = Taps(deltas)
        large = images.shape[1] >= 64 if self.stem is None else self.stem == "imagenet"
        x = tap.shift("input", images).astype(self.dtype)
        x = Conv(int(64 * self.width), 7 if large else 3, 2 if large else 1, dtype=self.dtype, name="stem_conv")(x)
        x = tap("stem", nn.relu(self.norm(dtype=self.dtype, name="stem_bn")(x, train)))
        if large:
            x = ops.max_pool(x, 3, 2, pad=1)
        kind = Bottleneck if self.bottleneck else BasicBlock
        rates = iter(depth_rates(self.stochastic_depth, sum(self.blocks)))
        inside = iter(self.free_widths())
        for stage, count in enumerate(self.blocks, start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                record = tap.named(f"stage{stage}_preact") if block == count - 1 else unnamed
                own = (next(inside), next(inside)) if self.bottleneck else next(inside)
                fields = {"drop": next(rates), "inside": own, "norm": self.norm, "name": f"stage{stage}_block{block}"}
                x = kind(int(2 ** (stage + 5) * self.width), stride, self.dtype, **fields)(x, train, record)
            x = tap(f"stage{stage}", x)
        return self.pooled(tap, x)

    def settle(self, shape_of) -> "ImageNetResNet":
        """This network with the stem of some weights, unless `stem` is given.

        Args:
            shape_of: variable path -> its shape in those weights, or None.
        """
        if self.stem is not None:
            return self
        shape = shape_of(("params", "stem_conv", "kernel"))
        return self.clone(stem="imagenet" if shape and shape[0] == 7 else "cifar")

    def torch_name(self, path: tuple[str, ...]) -> str:
        """("params", "stage1_block0", "conv1", "kernel") -> "layer1.0.conv1.weight". None means "imagenet" here."""
        return rename(path, CIFAR_NAMES if self.stem == "cifar" else TORCH_NAMES)


def _size(depth: int, blocks: tuple[int, int, int, int], bottleneck: bool):
    what = f"ImageNet's ResNet{depth}: 4 stages of {blocks} {'bottleneck' if bottleneck else 'basic'} blocks."
    source = "He et al., CVPR 2016, arXiv:1512.03385"
    return variant(ImageNetResNet, f"resnet{depth}", what, source, blocks=blocks, bottleneck=bottleneck)


resnet18 = _size(18, (2, 2, 2, 2), False)
resnet34 = _size(34, (3, 4, 6, 3), False)
resnet50 = _size(50, (3, 4, 6, 3), True)
resnet101 = _size(101, (3, 4, 23, 3), True)
