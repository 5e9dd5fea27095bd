"""The CIFAR ResNets of the distillation benchmarks: 3x3 stem, three stages of post-activation basic blocks.

Paper: He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016. arXiv:1512.03385, section 4.2.

The networks follow the benchmarks in two points, not the paper: a change of shape goes through a 1x1 convolution with
batch norm, and the x4 networks have widths 32, 64, 128, 256, so their first stage projects too.
Any input size works; the stages halve the resolution twice.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models import ops
from models.layers import BatchNorm, Conv, branch_dropped
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps, unnamed

TORCH_NAMES = {
    r"^stem_(conv|bn)$": r"\g<1>1",
    r"^stage(\d+)_block(\d+)": r"layer\1.\2",
    r"shortcut_conv$": "downsample.0",
    r"shortcut_bn$": "downsample.1",
    r"^classifier$": "fc",
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns [B, H/s, W/s, width] after the ReLU; `tap` gets it before."""

    width: int
    stride: int = 1
    dtype: Any = jnp.float32
    padding: str = "TORCH"
    drop: float = 0.0
    inside: int = 0  # channels between the convolutions; 0: `width`
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        y = Conv(self.inside or self.width, 3, self.stride, dtype=self.dtype, padding=self.padding, name="conv1")(x)
        y = nn.relu(self.norm(dtype=self.dtype, name="bn1")(y, train))
        y = Conv(self.width, 3, dtype=self.dtype, name="conv2")(y)
        y = self.norm(dtype=self.dtype, name="bn2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = Conv(self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = self.norm(dtype=self.dtype, name="shortcut_bn")(x, train)
        return ops.kept(nn.relu(tap(branch_dropped(y, self.drop, train) + x)))


class ResNet(Network):
    """A CIFAR ResNet.

    Attributes:
        blocks: basic blocks in each of the three stages; the depth is 6 * blocks + 2.
        widths: channels of the stem and of each stage (three); of a pruned network, then those inside each block.
        num_classes: K.
        dtype: compute type; parameters, statistics and logits are float32.
        padding: of `models.layers.Conv`: "TORCH" (the benchmarks'), "SAME" (networks trained by older Flax code).
    """

    blocks: int
    widths: tuple[int, ...]
    num_classes: int
    dtype: Any = jnp.float32
    padding: str = "TORCH"

    torch_names = TORCH_NAMES

    @property
    def fixed_widths(self) -> int:
        return 4 if len(self.widths) == 4 + 3 * self.blocks else len(self.widths)

    def free_widths(self) -> tuple[int, ...]:
        own = self.widths[: self.fixed_widths]
        return completed(self.widths, (*own, *(w for w in own[1:] for _ in range(self.blocks))), len(own))

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..3` (and `_preact`), `final`, `embedding`."""
        tap, inside = Taps(deltas), iter(self.free_widths()[self.fixed_widths :])
        x = tap.shift("input", images).astype(self.dtype)
        x = Conv(self.widths[0], 3, dtype=self.dtype, name="stem_conv")(x)
        x = tap("stem", nn.relu(BatchNorm(dtype=self.dtype, name="stem_bn")(x, train)))
        for stage, width in enumerate(self.widths[1 : self.fixed_widths], start=1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                record = tap.named(f"stage{stage}_preact") if block == self.blocks - 1 else unnamed
                name = f"stage{stage}_block{block}"
                x = BasicBlock(width, stride, self.dtype, self.padding, 0.0, next(inside), name=name)(x, train, record)
            x = tap(f"stage{stage}", x)
        return self.pooled(tap, x)


def _size(name: str, blocks: int, widths: tuple[int, int, int, int]):
    what = f"CIFAR {name}: 3 stages of {blocks} basic blocks, widths {widths[1:]}."
    return variant(ResNet, name.lower(), what, "He et al., CVPR 2016, arXiv:1512.03385", blocks=blocks, widths=widths)


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
resnet8 = _size("ResNet8", 1, NARROW)
resnet14 = _size("ResNet14", 2, NARROW)
resnet20 = _size("ResNet20", 3, NARROW)
resnet32 = _size("ResNet32", 5, NARROW)
resnet44 = _size("ResNet44", 7, NARROW)
resnet56 = _size("ResNet56", 9, NARROW)
resnet110 = _size("ResNet110", 18, NARROW)
resnet8x4 = _size("ResNet8x4", 1, WIDE)
resnet32x4 = _size("ResNet32x4", 5, WIDE)
