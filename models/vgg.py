"""The VGG networks of the distillation benchmarks: 3x3 convolutions with bias and batch norm, one linear layer.

Paper: Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.
arXiv:1409.1556.

The benchmarks' form for small images: five blocks, a 2x2 max-pooling after each of the first three (after the fourth
too if the image is at least 64 pixels high), the mean of the last map instead of hidden linear layers. The first block
is the stem. VGG8 is the benchmarks' own, one convolution a block.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models import ops
from models.layers import BatchNorm, Conv, small_normal
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps

WIDTHS = (64, 128, 256, 512, 512)
TORCH_NAMES = {
    r"^stem_": "block0_",
    r"^stage(\d+)_": r"block\1_",
    # convolution, batch norm and ReLU in turn: three places of the reference's Sequential
    r"_conv(\d+)$": lambda match: f".{3 * int(match[1])}",
    r"_bn(\d+)$": lambda match: f".{3 * int(match[1]) + 1}",
}


class VGG(Network):
    """A VGG network.

    Attributes:
        convolutions: their number in each of the five blocks.
        num_classes: K.
        widths: channels of the five blocks; of a pruned network, those of each convolution.
        dtype: compute type; parameters, statistics and logits are float32.
    """

    convolutions: tuple[int, int, int, int, int]
    num_classes: int
    widths: tuple[int, ...] = WIDTHS
    dtype: Any = jnp.float32

    classifier_init = (small_normal, nn.initializers.zeros)
    torch_names = TORCH_NAMES

    def free_widths(self) -> tuple[int, ...]:
        each = [width for width, count in zip(self.widths, self.convolutions, strict=False) for _ in range(count)]
        return completed(self.widths, each, short=len(self.convolutions))

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..4` (and `_preact`), `final`, `embedding`."""
        tap, widths = Taps(deltas), iter(self.free_widths())
        x = tap.shift("input", images).astype(self.dtype)
        pools = 4 if images.shape[1] >= 64 else 3
        for stage, count in enumerate(self.convolutions):
            name = f"stage{stage}" if stage else "stem"
            if 0 < stage <= pools:
                x = ops.max_pool(x, 2, 2)
            for i in range(count):
                x = Conv(next(widths), 3, use_bias=True, dtype=self.dtype, name=f"{name}_conv{i}")(x)
                x = BatchNorm(dtype=self.dtype, name=f"{name}_bn{i}")(x, train)
                if stage and i == count - 1:
                    x = tap(f"{name}_preact", x)
                x = nn.relu(x)
            x = tap(name, x)
        return self.pooled(tap, x)


def _size(depth: int, convolutions: tuple[int, int, int, int, int]):
    what = f"VGG{depth} with batch norm, {convolutions} convolutions in its five blocks."
    source = "Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556"
    return variant(VGG, f"vgg{depth}", what, source, convolutions=convolutions)


vgg8 = _size(8, (1, 1, 1, 1, 1))
vgg11 = _size(11, (1, 1, 2, 2, 2))
vgg13 = _size(13, (2, 2, 2, 2, 2))
vgg16 = _size(16, (2, 2, 3, 3, 3))
vgg19 = _size(19, (2, 2, 4, 4, 4))
