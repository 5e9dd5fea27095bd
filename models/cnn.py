"""A network for tests and tutorials: four convolutions with batch norm, with the taps that all networks have.

Source: this library, not a paper.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.layers import BatchNorm, Conv
from models.network import Network, completed
from models.outputs import Outputs, Taps

WIDTHS = (16, 16, 32, 64)


class CNN(Network):
    """Four 3x3 convolutions, each with batch norm and ReLU; the last two halve the resolution.

    Attributes:
        num_classes: K.
        widths: channels of the stem and of the three stages.
        dtype: compute type; parameters, statistics and logits are float32.

    Source: this library
    """

    num_classes: int
    widths: tuple[int, int, int, int] = WIDTHS
    dtype: Any = jnp.float32

    def free_widths(self) -> tuple[int, ...]:
        return completed(self.widths, WIDTHS, short=4)

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; taps `stem`, `stage1..3` (and `_preact`), `final`, `embedding`."""
        tap, names = Taps(deltas), ("stem", "stage1", "stage2", "stage3")
        x = tap.shift("input", images).astype(self.dtype)
        for name, width, stride in zip(names, self.free_widths(), (1, 1, 2, 2), strict=True):
            x = Conv(width, 3, stride, dtype=self.dtype, name=f"{name}_conv")(x)
            x = BatchNorm(dtype=self.dtype, name=f"{name}_bn")(x, train)
            x = tap(name, nn.relu(x if name == "stem" else tap(f"{name}_preact", x)))
        return self.pooled(tap, x)
