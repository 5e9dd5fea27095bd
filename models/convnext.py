"""ConvNeXt: depthwise 7x7 convolutions and an inverted bottleneck in four stages, normalised over channels.

Paper: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie. A ConvNet for the 2020s. CVPR 2022. arXiv:2201.03545.

The network is the paper's, and `torch_name` has timm's names. Layer scale starts at 1e-6. Weights are normal with
deviation 0.02; the paper's truncation at +-2 does not change that. Biases are zero. `stochastic_depth` is the paper's,
0.1 in its ConvNeXt-T, and 0 by default.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.layers import Conv, branch_dropped, depth_rates, parameter
from models.network import Network, completed, variant
from models.outputs import Outputs, Taps
from models.vit import LayerNorm, PatchConv, normal
from registry import UserError


def default_patch(side: int) -> int:
    """The stem's patch for images of `side` pixels: 4 from 64 pixels on, 2 from 32, 1 below."""
    return 4 if side >= 64 else 2 if side >= 32 else 1


class Block(nn.Module):
    """x + gamma * fc2(GELU(fc1(norm(depthwise(x))))), [B, H, W, C]; `drop` is the rate of stochastic depth."""

    inside: int  # channels between fc1 and fc2
    dtype: Any = jnp.float32
    drop: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        width = x.shape[-1]

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, kernel_init=normal, name=name)

        gamma = parameter(self, "gamma", nn.initializers.constant(1e-6), (width,))
        y = Conv(width, 7, groups=width, use_bias=True, kernel_init=normal, dtype=self.dtype, name="conv_dw")(x)
        y = LayerNorm(self.dtype, name="norm")(y)
        y = dense(width, "fc2")(nn.gelu(dense(self.inside, "fc1")(y), approximate=False))
        return x + branch_dropped(gamma.astype(self.dtype) * y, self.drop, train)


class ConvNeXt(Network):
    """A ConvNeXt.

    Attributes:
        blocks: blocks in each stage.
        widths: channels of each stage; the stem has the first's. Of a pruned network, then those inside each block.
        num_classes: K.
        patch_size: size and stride of the stem's convolution: 4 in the paper; None: `default_patch` of the image.
        stochastic_depth: in training, an image takes only the shortcut of the last block with this probability, which
            grows linearly from 0 in the first block. In [0, 1). Needs random numbers: `rngs={"dropout": key}`.
        dtype: compute type; parameters, statistics and logits are float32.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    patch_size: int | None = None
    stochastic_depth: float = 0.0
    dtype: Any = jnp.float32

    classifier_init = (normal, nn.initializers.zeros)

    @property
    def fixed_widths(self) -> int:
        return len(self.blocks)

    def free_widths(self) -> tuple[int, ...]:
        own = self.widths[: len(self.blocks)]
        inside = [4 * width for width, count in zip(own, self.blocks, strict=True) for _ in range(count)]
        return completed(self.widths, (*own, *inside), short=len(own))

    def setup(self):
        self.head_norm = LayerNorm()
        super().setup()

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`.

        Taps: `stem`; `stage1..N`, the residual stream at the end of each stage, without an activation;
        `stage1..N_preact`, the same arrays; `embedding` [B, D], the mean over positions, normalised by the head's norm.
        """
        tap, inside = Taps(deltas), iter(self.free_widths()[len(self.blocks) :])
        patch = self.patch_size or default_patch(min(images.shape[1:3]))
        least = patch * 2 ** (len(self.blocks) - 1)
        if min(images.shape[1:3]) < least:
            raise UserError(
                f"Images of {images.shape[1]} x {images.shape[2]} pixels are too small for a patch_size of {patch}: "
                f"it needs {least}."
            )
        x = tap.shift("input", images)
        x = PatchConv(self.widths[0], patch, normal, dtype=self.dtype, name="stem_conv")(x)
        x = tap("stem", LayerNorm(self.dtype, name="stem_norm")(x))
        rates = iter(depth_rates(self.stochastic_depth, sum(self.blocks)))
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=False), start=1):
            if stage > 1:
                x = LayerNorm(self.dtype, name=f"stage{stage}_norm")(x)
                x = PatchConv(width, 2, normal, dtype=self.dtype, name=f"stage{stage}_downsample")(x)
            for block in range(count):
                x = Block(next(inside), self.dtype, next(rates), name=f"stage{stage}_block{block}")(x, train)
            x = tap(f"stage{stage}", tap(f"stage{stage}_preact", x))
        embedding = tap("embedding", self.head_norm(jnp.mean(x.astype(jnp.float32), axis=(1, 2))))
        return Outputs(logits=self.classify(embedding), features=tap.features)

    def settle(self, shape_of) -> "ConvNeXt":
        """This network with the patch size of some weights, unless `patch_size` is given.

        Args:
            shape_of: variable path -> its shape in those weights, or None.
        """
        shape = None if self.patch_size else shape_of(("params", "stem_conv", "kernel"))
        return self.clone(patch_size=shape[0]) if shape else self

    def torch_name(self, path: tuple[str, ...]) -> str:
        """timm's state_dict name of the variable at `path`, such as ("params", "stage1_block0", "fc1", "kernel")."""
        *scope, leaf = path[1:]
        leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        top = {"stem_conv": "stem.0", "stem_norm": "stem.1", "head_norm": "head.norm", "classifier": "head.fc"}
        if scope[0] in top:
            return f"{top[scope[0]]}.{leaf}"
        stage, part = scope[0].removeprefix("stage").split("_")
        stage = f"stages.{int(stage) - 1}"
        if not part.startswith("block"):
            return f"{stage}.downsample.{['norm', 'downsample'].index(part)}.{leaf}"
        inner = [f"mlp.{name}" if name in ("fc1", "fc2") else name for name in scope[1:]]
        return ".".join([f"{stage}.blocks.{part.removeprefix('block')}", *inner, leaf])


convnext_t = variant(
    ConvNeXt,
    "convnext_t",
    "ConvNeXt-T: blocks 3, 3, 9, 3 of widths 96, 192, 384, 768.",
    "Liu et al., CVPR 2022, arXiv:2201.03545",
    blocks=(3, 3, 9, 3),
    widths=(96, 192, 384, 768),
)
