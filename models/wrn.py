"""The wide residual networks of the distillation benchmarks: pre-activation blocks in three stages.

Paper: Zagoruyko, Komodakis. Wide Residual Networks. BMVC 2016. arXiv:1605.07146.

As in the benchmarks' network, a change of width goes through a 1x1 convolution of relu(bn(x)) without a batch norm, and
there is no dropout. A stage's tap is the output of its last block. Its `_preact` is the output of the next batch norm,
before the ReLU. The reference computes `_preact` by a second call of this batch norm, so in training the statistics
move twice a step. Here the output of the first call is recorded.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.layers import BatchNorm, Conv
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps, unnamed

TORCH_NAMES = {
    r"^stem_conv$": "conv1",
    r"^final_bn$": "bn1",
    r"^stage(\d+)_block(\d+)": r"block\1.layer.\2",
    r"shortcut_conv$": "convShortcut",
    r"^classifier$": "fc",
}


class PreactBlock(nn.Module):
    """Twice batch norm, ReLU and 3x3 convolution, and a shortcut. Returns the sum, [B, H/s, W/s, width].

    `tap` is called with the output of the first batch norm, and its result is used instead.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32
    inside: int = 0  # channels between the convolutions; 0: `width`

    @nn.compact
    def __call__(self, x, train: bool, tap=unnamed):
        y = BatchNorm(dtype=self.dtype, name="bn1")(x, train)
        y = nn.relu(tap(y))
        if x.shape[-1] != self.width:
            x = Conv(self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(y)
        y = Conv(self.inside or self.width, 3, self.stride, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(y, train))
        return x + Conv(self.width, 3, dtype=self.dtype, name="conv2")(y)


class WideResNet(Network):
    """A wide residual network.

    Attributes:
        blocks: blocks in each of the three stages; the depth is 6 * blocks + 4.
        widen: factor of the stages' widths 16, 32, 64.
        num_classes: K.
        dtype: compute type; parameters, statistics and logits are float32.
        widths: of a pruned network, channels inside each block; (): those of its stage.
    """

    blocks: int
    widen: int
    num_classes: int
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = ()

    classifier_init = (None, nn.initializers.zeros)
    torch_names = TORCH_NAMES

    def free_widths(self) -> tuple[int, ...]:
        stages = [2 ** (stage + 3) * self.widen for stage in (1, 2, 3)]
        return completed(self.widths, [width for width in stages for _ in range(self.blocks)])

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..3` (and `_preact`), `final`, `embedding`."""
        tap, inside = Taps(deltas), iter(self.free_widths())
        x = tap.shift("input", images).astype(self.dtype)
        x = tap("stem", Conv(16, 3, dtype=self.dtype, name="stem_conv")(x))
        for stage in (1, 2, 3):
            for block in range(self.blocks):
                first = stage > 1 and block == 0  # its first batch norm follows the previous stage
                record = tap.named(f"stage{stage - 1}_preact") if first else unnamed
                width, name = 2 ** (stage + 3) * self.widen, f"stage{stage}_block{block}"
                x = PreactBlock(width, 2 if first else 1, self.dtype, next(inside), name=name)(x, train, record)
            x = tap(f"stage{stage}", x)
        return self.pooled(tap, nn.relu(tap("stage3_preact", BatchNorm(dtype=self.dtype, name="final_bn")(x, train))))


def _size(depth: int, widen: int):
    what = f"Wide residual network of depth {depth} and width {widen}."
    source = "Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146"
    return variant(WideResNet, f"wrn_{depth}_{widen}", what, source, blocks=(depth - 4) // 6, widen=widen)


wrn_16_1 = _size(16, 1)
wrn_16_2 = _size(16, 2)
wrn_40_1 = _size(40, 1)
wrn_40_2 = _size(40, 2)
wrn_28_10 = _size(28, 10)
