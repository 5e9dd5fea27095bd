"""The wide residual networks of the distillation benchmarks: pre-activation blocks in three stages.

Paper: Zagoruyko, Komodakis. Wide Residual Networks. BMVC 2016. arXiv:1605.07146.

As in the benchmarks' network a change of width goes through a bare 1x1 convolution of relu(bn(x)), and there is no
dropout. A stage's tap is the raw block output; its `_preact` is what the next batch norm makes of it, before the ReLU.
The reference computes that by calling the batch norm a second time, so that in training its statistics move twice a
step; here the first call's output is recorded.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import BatchNorm, Conv, Dense
from models.outputs import Outputs, Taps
from models.torch_names import rename

TORCH_NAMES = {
    r"^stem_conv$": "conv1",
    r"^final_bn$": "bn1",
    r"^stage(\d+)_block(\d+)": r"block\1.layer.\2",
    r"shortcut_conv$": "convShortcut",
    r"^classifier$": "fc",
}


class PreactBlock(nn.Module):
    """Batch norm, ReLU, 3x3 convolution, twice, around a shortcut. Returns the sum, [B, H/s, W/s, width].

    `tap` is called with what the first batch norm returns, and its result is used instead.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool, tap=None):
        y = BatchNorm(dtype=self.dtype, name="bn1")(x, train)
        y = nn.relu(y if tap is None else tap(y))
        if x.shape[-1] != self.width:
            x = Conv(self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(y)
        y = Conv(self.width, 3, self.stride, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(y, train))
        return x + Conv(self.width, 3, dtype=self.dtype, name="conv2")(y)


class WideResNet(nn.Module):
    """A wide residual network.

    Attributes:
        blocks: blocks in each of the three stages; the depth is 6 * blocks + 4.
        widen: factor of the stages' widths 16, 32, 64.
        num_classes: K.
        dtype: compute type; parameters, statistics and logits are float32.
    """

    blocks: int
    widen: int
    num_classes: int
    dtype: Any = jnp.float32

    def setup(self):
        self.classifier = Dense(self.num_classes, bias_init=nn.initializers.zeros)

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..3` (and `_preact`), `final`, `embedding`."""
        tap = Taps(deltas)
        x = tap.shift("input", images).astype(self.dtype)
        x = tap("stem", Conv(16, 3, dtype=self.dtype, name="stem_conv")(x))
        for stage in (1, 2, 3):
            for block in range(self.blocks):
                first = stage > 1 and block == 0  # its first batch norm is the one that follows the stage before
                record = (lambda y, s=stage - 1: tap(f"stage{s}_preact", y)) if first else None
                width, name = 2 ** (stage + 3) * self.widen, f"stage{stage}_block{block}"
                x = PreactBlock(width, 2 if first else 1, self.dtype, name=name)(x, train, record)
            x = tap(f"stage{stage}", x)
        x = tap("final", nn.relu(tap("stage3_preact", BatchNorm(dtype=self.dtype, name="final_bn")(x, train))))
        embedding = tap("embedding", jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return Outputs(logits=self.classify(embedding), features=tap.features)

    def classify(self, embedding: jax.Array) -> jax.Array:
        """embedding [B, D] -> logits [B, K] float32."""
        return self.classifier(embedding)

    def torch_name(self, path: tuple[str, ...]) -> str:
        """("params", "stage1_block0", "conv1", "kernel") -> "block1.layer.0.conv1.weight"."""
        return rename(path, TORCH_NAMES)


def _family(depth: int, widen: int):
    def build(num_classes: int, **options) -> WideResNet:
        return WideResNet(blocks=(depth - 4) // 6, widen=widen, num_classes=num_classes, **options)

    build.__name__ = f"wrn_{depth}_{widen}"
    source = "Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146"
    build.__doc__ = f"Wide residual network of depth {depth} and width {widen}.\n\nPaper: {source}"
    return build


wrn_16_1 = _family(16, 1)
wrn_16_2 = _family(16, 2)
wrn_40_1 = _family(40, 1)
wrn_40_2 = _family(40, 2)
wrn_28_10 = _family(28, 10)
