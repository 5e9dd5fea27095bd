"""The ShuffleNets of the distillation benchmarks: 1x1 stem without pooling, three stages, for small images.

Papers: Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices.
CVPR 2018. arXiv:1707.01083 (V1, here with three groups). Ma, Zhang, Zheng, Sun. ShuffleNet V2: Practical Guidelines
for Efficient CNN Architecture Design. ECCV 2018. arXiv:1807.11164 (V2, here with width 1).

The networks follow the benchmarks in three points, not the papers: the stem is a 1x1 convolution of stride 1; a V1
block has a quarter of its last convolution's channels inside; a V2 stage has one block more than the paper's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import ops
from models.layers import BatchNorm, Conv, default_uniform
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps, unnamed

LAST = 1024  # channels of V2's last convolution
TORCH_NAMES = {
    r"^stem_(conv|bn)$": r"\g<1>1",
    r"^last_(conv|bn)$": r"\g<1>2",
    r"^stage(\d+)_block(\d+)": r"layer\1.\2",
    r"^classifier$": "linear",
}


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """[..., C] -> [..., C]: channel j of group i, at i * C / groups + j, goes to j * groups + i."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)


class _Block(nn.Module):
    """What the blocks share: the n-th convolution with its batch norm, under the reference's names."""

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    def conv_bn(self, n: int, x, train: bool, features: int, size: int = 1, stride: int = 1, groups: int = 1):
        conv = Conv(features, size, stride, groups, kernel_init=default_uniform, dtype=self.dtype, name=f"conv{n}")
        return BatchNorm(dtype=self.dtype, name=f"bn{n}")(conv(x), train)


class BlockV1(_Block):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; a strided block appends its input, average-pooled.

    `tap` is called with the array before the last ReLU, and its result is used instead.
    """

    groups: int = 3

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        added = self.width - x.shape[-1] if self.stride == 2 else self.width
        groups = 1 if x.shape[-1] == 24 else self.groups  # the stem's 24 channels are too few to divide
        y = nn.relu(self.conv_bn(1, x, train, added // 4, groups=groups))
        y = channel_shuffle(y, groups)
        y = nn.relu(self.conv_bn(2, y, train, added // 4, 3, self.stride, groups=added // 4))
        y = self.conv_bn(3, y, train, added, groups=self.groups)
        if self.stride == 2:
            wide = np.promote_types(x.dtype, np.float32)
            shortcut = ops.mean_pool(x.astype(wide), 3, 2, pad=1).astype(y.dtype)
            y = jnp.concatenate([y, shortcut], axis=-1)
        else:
            y = y + x
        return ops.kept(nn.relu(tap(y)))


class BlockV2(_Block):
    """Half of the channels pass, half are transformed, all are shuffled; a strided block transforms all of them twice.

    `tap` is called with [passed half, other half before its ReLU], not shuffled, as in the reference.
    """

    inside: int = 0  # channels of the depthwise convolution in the transformed half; 0: half of `width`

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        half, inputs = self.width // 2, x.shape[-1]
        inside = self.inside or half
        if self.stride == 2:
            left = self.conv_bn(1, x, train, inputs, 3, 2, groups=inputs)
            left = nn.relu(self.conv_bn(2, left, train, half))
            right, n = x, 3
        else:
            left, right, n = x[..., :half], x[..., half:], 1
        right = nn.relu(self.conv_bn(n, right, train, inside))
        right = self.conv_bn(n + 1, right, train, inside, 3, self.stride, groups=inside)
        right = self.conv_bn(n + 2, right, train, half)
        if tap is not unnamed:
            both = tap(jnp.concatenate([left, right], axis=-1))
            left, right = both[..., :half], both[..., half:]
        return channel_shuffle(jnp.concatenate([left, nn.relu(right)], axis=-1), 2)


class ShuffleNet(Network):
    """A ShuffleNet.

    Attributes:
        version: 1 or 2.
        blocks: in each of the three stages.
        widths: channels of the three stages; of a pruned V2, then those inside each block, and of the last convolution.
        num_classes: K.
        dtype: compute type; parameters, statistics and logits are float32.
    """

    version: int
    blocks: tuple[int, int, int]
    widths: tuple[int, ...]
    num_classes: int
    dtype: Any = jnp.float32

    torch_names = TORCH_NAMES
    fixed_widths = 3

    def free_widths(self) -> tuple[int, ...]:
        """V1 has none: a grouped convolution reads the same places of all groups of a shuffled array."""
        if self.version == 1:
            return ()
        own = self.widths[:3]
        inside = [width // 2 for width, count in zip(own, self.blocks, strict=True) for _ in range(count)]
        return completed(self.widths, (*own, *inside, LAST), short=3)

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..3` (and `_preact`), `final`, `embedding`."""
        tap, free = Taps(deltas), iter(self.free_widths()[3:])
        x = tap.shift("input", images).astype(self.dtype)
        x = tap("stem", self._conv_bn_relu("stem", 24, x, train))
        for stage, (width, count) in enumerate(zip(self.widths[:3], self.blocks, strict=True), start=1):
            for block in range(count):
                record = tap.named(f"stage{stage}_preact") if block == count - 1 else unnamed
                name = f"stage{stage}_block{block}"
                shared = {"width": width, "stride": 1 if block else 2, "dtype": self.dtype, "name": name}
                kind = BlockV1(**shared) if self.version == 1 else BlockV2(**shared, inside=next(free))
                x = kind(x, train, record)
            x = tap(f"stage{stage}", x)
        if self.version == 2:
            x = self._conv_bn_relu("last", next(free), x, train)
        return self.pooled(tap, x)

    def _conv_bn_relu(self, name: str, width: int, x, train: bool):
        x = Conv(width, 1, kernel_init=default_uniform, dtype=self.dtype, name=f"{name}_conv")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name=f"{name}_bn")(x, train))


shufflenet_v1 = variant(
    ShuffleNet,
    "shufflenet_v1",
    "ShuffleNet V1 with three groups, stages of 240, 480 and 960 channels.",
    "Zhang et al., CVPR 2018, arXiv:1707.01083",
    version=1,
    blocks=(4, 8, 4),
    widths=(240, 480, 960),
)
shufflenet_v2 = variant(
    ShuffleNet,
    "shufflenet_v2",
    "ShuffleNet V2 of width 1, stages of 116, 232 and 464 channels.",
    "Ma et al., ECCV 2018, arXiv:1807.11164",
    version=2,
    blocks=(4, 8, 4),
    widths=(116, 232, 464),
)
