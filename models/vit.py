"""Vision transformers: patches as tokens, a class token, pre-norm blocks; with or without DeiT's distillation token.

Paper: Dosovitskiy et al. An Image Is Worth 16x16 Words: Transformers for Image Recognition at Scale. ICLR 2021.
arXiv:2010.11929. Distillation token: Touvron et al. Training Data-Efficient Image Transformers & Distillation through
Attention (DeiT). ICML 2021. arXiv:2012.12877.

The networks are timm's `vit_*_patch16` and `deit_*`, and `torch_name` has timm's names. Weights are normal with
deviation 0.02; timm's truncation at +-2 does not change that. Layer norm has epsilon 1e-6, GELU is exact. `dropout` is
the first paper's (appendix B.1, 0.1 on ImageNet), `stochastic_depth` is DeiT's (0.1). Both are 0 by default.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.layers import branch_dropped, checked_rate, depth_rates, parameter
from models.network import variant
from models.outputs import Outputs, Taps
from registry import UserError

normal = nn.initializers.normal(0.02)


def token_map(tokens: jax.Array, extra_tokens: int, grid: tuple[int, int] | None = None) -> jax.Array:
    """The patch tokens as a feature map.

    Args:
        tokens: [B, extra_tokens + H * W, D]; a `stage` tap, or one row of an attention map as [B, tokens, 1].
        extra_tokens: class and distillation tokens at the front, which are left out: `model.extra_tokens`.
        grid: (H, W) in patches; None means a square.

    Returns:
        [B, H, W, D].

    Raises:
        ValueError: the number of patch tokens is not H * W.
    """
    count = tokens.shape[1] - extra_tokens
    height, width = grid or (round(count**0.5),) * 2
    if height * width != count:
        raise ValueError(f"{count} patch tokens make no {height} x {width} map; give grid=(H, W).")
    return tokens[:, extra_tokens:].reshape(tokens.shape[0], height, width, tokens.shape[2])


def default_patch(side: int) -> int:
    """The patch size for images of `side` pixels: at least 8 patches a side, 16 pixels at most (32 -> 4, 224 -> 16)."""
    return min(16, 1 << max(side // 8, 1).bit_length() - 1)


def dropped(x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Dropout in training: entries of `x` are zero with probability `rate`, the others are divided by 1 - rate."""
    return nn.Dropout(rate, deterministic=False)(x) if train and rate else x


class PatchConv(nn.Module):
    """A convolution whose stride is its size, as one matrix product: [B, H, W, C] -> [B, H // size, W // size, D].

    Rows and columns that do not fill a patch are left out: nothing is padded. Parameters `kernel` [size, size, C, D],
    `bias` [D].
    """

    features: int
    size: int
    kernel_init: Any
    bias_init: Any = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        size, (batch, height, width, channels) = self.size, x.shape
        kernel = parameter(self, "kernel", self.kernel_init, (size, size, channels, self.features))
        bias = parameter(self, "bias", self.bias_init, (self.features,))
        rows, columns = height // size, width // size
        x = x[:, : rows * size, : columns * size].astype(self.dtype)
        x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, size * size * channels)
        return x @ kernel.reshape(-1, self.features).astype(self.dtype) + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32 inside, epsilon 1e-6. Parameters `scale`, `bias` [D]."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = parameter(self, "scale", nn.initializers.ones, x.shape[-1:])
        bias = parameter(self, "bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(variance + 1e-6) * scale + bias).astype(self.dtype)


class Block(nn.Module):
    """Pre-norm self-attention and MLP around a residual stream [B, tokens, D].

    `tap(kind, value)` gets the block's queries, keys and values ("qkv"), its attention map ("attention") and its output
    ("block").

    Attributes:
        heads: attention heads.
        dropout, dtype: as in `ViT`.
        drop: the probability, in training, that an image takes only the shortcut around the attention; the same for
            the MLP.
    """

    heads: int
    dropout: float = 0.0
    drop: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, tap, train: bool = False):
        batch, tokens, width = x.shape

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, kernel_init=normal, name=name)

        def add(x, y):
            return x + branch_dropped(dropped(y, self.dropout, train), self.drop, train)

        qkv = tap("qkv", dense(3 * width, "qkv")(LayerNorm(self.dtype, name="norm1")(x)))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, width // self.heads), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (width // self.heads) ** -0.5
        attention = tap("attention", nn.softmax(scores.astype(jnp.float32)).astype(self.dtype))
        y = jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(batch, tokens, width)
        x = add(x, dense(width, "proj")(y))
        y = nn.gelu(dense(4 * width, "fc1")(LayerNorm(self.dtype, name="norm2")(x)), approximate=False)
        return tap("block", add(x, dense(width, "fc2")(dropped(y, self.dropout, train))))


class ViT(nn.Module):
    """A vision transformer.

    Attributes:
        width: D, channels of a token.
        heads: attention heads; divides `width`.
        num_classes: K.
        depth: blocks.
        patch_size: side of a patch in pixels; divides the image's sides. None: `default_patch` of the image.
        image_size: side in pixels that images must have; None: that of the images at initialisation.
        distilled: DeiT's distillation token and second head. `logits` are then the mean of the two heads, in training
            too. So a method on `logits` trains both heads, and the mean contains no untrained head. The taps
            `class_logits` and `distill_logits` are the logits of each head, for methods that teach them apart.
        stages: the number of blocks whose outputs are taps, at equal distances; `depth` makes every block's a tap.
        dropout: share of the numbers that training zeroes, in [0, 1): those after each dense layer except `qkv`, after
            the GELU and after the position embedding. The tap `stem` is after the dropout.
        stochastic_depth: in training, an image takes only the shortcut around the last block's attention with this
            probability, and around its MLP likewise. The probability grows linearly from 0 in the first block. In
            [0, 1). This and `dropout` need random numbers: `rngs={"dropout": key}` of `models.forward` or `apply`.
        dtype: compute type; parameters and logits are float32, and so is the softmax.
    """

    width: int
    heads: int
    num_classes: int
    depth: int = 12
    patch_size: int | None = None
    image_size: int | None = None
    distilled: bool = False
    stages: int = 4
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: Any = jnp.float32

    @property
    def extra_tokens(self) -> int:
        """Tokens in front of the patches."""
        return 1 + self.distilled

    def setup(self):
        self.classifier = nn.Dense(self.num_classes, kernel_init=normal)
        if self.distilled:
            self.classifier_dist = nn.Dense(self.num_classes, kernel_init=normal)

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`.

        Taps: `stem` (tokens with position); `block1..depth` [B, tokens, D], the residual stream after each block,
        before any norm, and `stage1..stages`, some of these; `qkv1..depth` [B, tokens, 3 D], each block's queries, keys
        and values, each with its heads side by side; `attention1..depth` [B, heads, tokens, tokens], rows sum to 1;
        `embedding` [B, D], the class token after the last norm, or with `distilled` [B, 2 D], the class and the
        distillation token. `token_map` gives the [B, H, W, D] map of tokens.
        """
        tap = Taps(deltas)
        patch = self._patch(images.shape)
        fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default for convolutions
        x = tap.shift("input", images)
        x = PatchConv(self.width, patch, fan_in, dtype=self.dtype, name="patch_embed")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        names = ("cls_token", "dist_token")[: self.extra_tokens]
        extra = [parameter(self, name, normal, (1, 1, self.width)) for name in names]
        extra = [jnp.broadcast_to(t.astype(self.dtype), (x.shape[0], 1, self.width)) for t in extra]
        x = jnp.concatenate([*extra, x], axis=1)
        x = x + self._position(x.shape[1], images.shape).astype(self.dtype)
        x = tap("stem", dropped(x, checked_rate("dropout", self.dropout), train))
        rates = depth_rates(self.stochastic_depth, self.depth)
        ends = {round(self.depth * s / self.stages): s for s in range(1, self.stages + 1)}
        for block in range(1, self.depth + 1):
            record = lambda kind, value, n=block: tap(f"{kind}{n}", value)  # noqa: E731
            fields = {"dropout": self.dropout, "drop": rates[block - 1], "dtype": self.dtype}
            x = Block(self.heads, **fields, name=f"block{block}")(x, record, train)
            if block in ends:
                x = tap(f"stage{ends[block]}", x)
        x = LayerNorm(name="norm")(x[:, : self.extra_tokens])
        embedding = tap("embedding", x.reshape(x.shape[0], -1))
        logits = self._heads(embedding)
        if self.distilled:
            logits = [tap(name, z) for name, z in zip(("class_logits", "distill_logits"), logits, strict=True)]
        return Outputs(logits=sum(logits) / len(logits), features=tap.features)

    def classify(self, embedding: jax.Array) -> jax.Array:
        """embedding [B, D] ([B, 2 D] with `distilled`) -> logits [B, K] float32."""
        logits = self._heads(embedding)
        return sum(logits) / len(logits)

    def _heads(self, embedding: jax.Array) -> list[jax.Array]:
        embedding = embedding.astype(jnp.float32)
        if not self.distilled:
            return [self.classifier(embedding)]
        return [self.classifier(embedding[:, : self.width]), self.classifier_dist(embedding[:, self.width :])]

    def _patch(self, shape: tuple[int, ...]) -> int:
        side = self.image_size
        if side and shape[1:3] != (side, side):
            raise UserError(f"This ViT is for images of {side} x {side} pixels; got {shape[1]} x {shape[2]}.")
        patch = self.patch_size or default_patch(min(shape[1:3]))
        if shape[1] % patch or shape[2] % patch:
            raise UserError(f"Images of {shape[1]} x {shape[2]} pixels do not divide into patches of {patch}.")
        if not 1 <= self.stages <= self.depth:
            raise UserError(f"'stages' must be from 1 to the depth of {self.depth}; got {self.stages}.")
        return patch

    def _position(self, tokens: int, shape: tuple[int, ...]) -> jax.Array:
        """The learned position embedding [1, tokens, D]. Raises `UserError` for another image size than its own."""
        needed = (1, tokens, self.width)
        if self.has_variable("params", "pos_embed"):
            found = self.get_variable("params", "pos_embed").shape
            if found != needed:
                raise UserError(
                    f"The position embedding has shape {found}; images of {shape[1]} x {shape[2]} need {needed}.\n"
                    "Give images of the size that this ViT was initialised with, or another patch_size."
                )
        return parameter(self, "pos_embed", normal, needed)

    def settle(self, shape_of) -> "ViT":
        """This network with the patch size of some weights, unless `patch_size` is given.

        Args:
            shape_of: variable path -> its shape in those weights, or None.
        """
        shape = None if self.patch_size else shape_of(("params", "patch_embed", "kernel"))
        return self.clone(patch_size=shape[0]) if shape else self

    def refit(self, path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The position embedding of weights that were trained on images of another size, for this network's images.

        Args:
            path: of a variable; only `pos_embed` is changed.
            array: the variable in the weights; [1, extra tokens + H * W, D] of `pos_embed`.
            shape: that the variable has here.

        Returns:
            `pos_embed` with the grid of patches, a square, resized bicubically; all other arrays as they are.
        """
        if path[-1] != "pos_embed" or array.shape[-1] != shape[-1]:
            return array
        grid = np.asarray(token_map(jnp.asarray(array), self.extra_tokens))
        side = round((shape[1] - self.extra_tokens) ** 0.5)
        grid = np.asarray(jax.image.resize(grid, (1, side, side, shape[-1]), "bicubic"))
        return np.concatenate([array[:, : self.extra_tokens], grid.reshape(1, -1, shape[-1])], axis=1)

    def torch_name(self, path: tuple[str, ...]) -> str:
        """timm's state_dict name of the variable at `path`, such as ("params", "block1", "qkv", "kernel")."""
        *scope, leaf = path[1:]
        if not scope:
            return leaf
        leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        top = {"patch_embed": "patch_embed.proj", "classifier": "head", "classifier_dist": "head_dist"}
        if not scope[0].startswith("block"):
            return f"{top.get(scope[0], scope[0])}.{leaf}"
        room = {"qkv": "attn.", "proj": "attn.", "fc1": "mlp.", "fc2": "mlp."}.get(scope[1], "")
        return f"blocks.{int(scope[0][5:]) - 1}.{room}{scope[1]}.{leaf}"


def _size(name: str, width: int, heads: int):
    what = f"{name}: 12 blocks of width {width}, {heads} heads; distilled=True is DeiT's."
    source = "Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; Touvron et al., ICML 2021, arXiv:2012.12877"
    return variant(ViT, name.lower(), what, source, width=width, heads=heads)


vit_ti = _size("ViT_Ti", 192, 3)
vit_s = _size("ViT_S", 384, 6)
vit_b = _size("ViT_B", 768, 12)
