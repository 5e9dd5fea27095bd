"""What the detectors share: the backbone with its pyramid, anchors, and torchvision's names of the weights."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models.detectors.anchors import RATIOS, anchors
from models.detectors.fpn import FPN
from models.layers import BatchNorm
from models.mobilenet import MobileNetV2
from models.network import rename
from models.outputs import Outputs, Taps, stages
from models.resnet_imagenet import resnet18, resnet34, resnet50, resnet101
from registry import UserError, unknown

BACKBONES = {
    "ResNet18": resnet18,
    "ResNet34": resnet34,
    "ResNet50": resnet50,
    "ResNet101": resnet101,
    "MobileNetV2": MobileNetV2,
}
PYRAMID_NAMES = {
    r"^fpn\.lateral(\d+)$": r"backbone.fpn.inner_blocks.\1.0",
    r"^fpn\.output(\d+)$": r"backbone.fpn.layer_blocks.\1.0",
    r"^fpn\.(p\d)$": r"backbone.fpn.extra_blocks.\1",
}


class Detector(nn.Module):
    """A backbone of `BACKBONES` with a feature pyramid. Parameters and answers are float32.

    Attributes:
        num_classes: K, the classes of objects.
        backbone: a name of `BACKBONES`, in its form for ImageNet, without a classifier.
        width: factor of all widths of the backbone.
        fpn_channels: of the pyramid and of the heads' convolutions.
        anchor_size: side of the first level's smallest anchors, in pixels; it doubles from level to level.
        frozen_norm: the backbone's batch norms are constants in training, too, as in torchvision's detectors that start
            from ImageNet's weights. A detector whose backbone starts from nothing needs False.
        epsilon: of the backbone's batch norms; 0 for torchvision's published weights of ResNet-50 detectors.
        dtype: compute type.
    """

    num_classes: int
    backbone: str = "ResNet18"
    width: float = 1.0
    fpn_channels: int = 256
    anchor_size: int = 32
    frozen_norm: bool = False
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    backbone_name = "body"  # among the variables
    # of the kind of detector: the pyramid's first level, its further levels (`FPN.extra`), how many levels
    first_level, extra, levels = 3, "convolutions", 5
    background = 0  # columns of the class scores before those of the classes
    class_layers = {}  # the layers with outputs [n, columns, m] for the columns of the class scores: path -> m
    torch_names = {}

    def setup(self):
        for name in ("anchor_size", "fpn_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"'{name}' is at least 1; got {getattr(self, name)}.")
        if self.width <= 0:
            raise UserError(f"'width' is above 0; got {self.width}.")
        self.body = self._body()
        self.fpn = FPN(self.fpn_channels, self.extra, self.dtype)

    def _body(self, **options) -> nn.Module:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        norm = functools.partial(BatchNorm, epsilon=self.epsilon, frozen=self.frozen_norm)
        fields = {"stem": "imagenet", "width": self.width, "norm": norm, "dtype": self.dtype}
        return BACKBONES[self.backbone](num_classes=0, **fields, **options)

    def pyramid(self, images: jax.Array, train: bool, deltas: dict | None) -> tuple[Taps, list[jax.Array]]:
        """Runs the backbone and the pyramid.

        Args:
            images: [B, H, W, C] float32.
            train: whether batch norm uses the batch's statistics (not with `frozen_norm`).
            deltas: see `Taps`.

        Returns:
            (the taps so far: the backbone's `stem`, `stage1` ..., and `p3` ...; the levels, from fine to coarse).
        """
        tap = Taps(deltas)
        tap.features.update(self.body(images, train, deltas).features)
        maps = stages(tap.features)[self.first_level - 2 :]
        return tap, self.fpn(maps, tap, self.first_level)

    def strides(self) -> tuple[int, ...]:
        """Pixels of the image between two positions of each level's map."""
        return tuple(2 ** (self.first_level + i) for i in range(self.levels))

    def sizes(self, side: int) -> tuple[float, ...]:
        """The sizes of the anchors of a level whose smallest anchors have this side."""
        return (side,)

    def anchors(self, images: jax.Array) -> jax.Array:
        """The anchors [A, 4] of images [B, H, W, C] (`models.detectors.anchors`)."""
        sizes = tuple(self.sizes(self.anchor_size * 2**i) for i in range(self.levels))
        return jnp.asarray(anchors(images.shape[1:3], self.strides(), sizes))

    def counts(self, features: dict[str, jax.Array]) -> tuple[int, ...]:
        """The number of anchors of each level, by the shapes of the taps `p3` ... in `features`."""
        maps = [features[f"p{self.first_level + i}"].shape for i in range(self.levels)]
        return tuple(shape[1] * shape[2] * self.per_cell for shape in maps)

    @property
    def per_cell(self) -> int:
        """Anchors at each position."""
        return len(RATIOS) * len(self.sizes(self.anchor_size))

    def found(self, outputs: Outputs) -> jax.Array:
        """The objects [B, most, 6] in whole images, padding included.

        Args:
            outputs: of this network, made by `models.forward`. An image whose class scores are not finite has rows of
                NaN: such scores would count as "no object".
        """
        rows = self.detections(outputs, full_size(outputs.asked().images))
        finite = jnp.all(jnp.isfinite(outputs.logits), axis=(1, 2))
        return jnp.where(finite[:, None, None], rows, jnp.nan)

    def in_order(self, params: Mapping, order: Sequence[int]) -> dict:
        """The parameters with the outputs of the classes `order`, numbers below K, and of the background."""
        kept = [*range(self.background), *(number + self.background for number in order)]
        flat = traverse_util.flatten_dict(dict(params))
        for layer, after in self.class_layers.items():
            for path in [(*layer, "kernel"), (*layer, "bias")]:
                x = np.asarray(flat[path])
                x = x.reshape(*x.shape[:-1], -1, self.num_classes + self.background, after)[..., kept, :]
                flat[path] = x.reshape(*x.shape[:-3], -1)
        return traverse_util.unflatten_dict(flat)

    def free_widths(self) -> tuple[int, ...]:
        """Empty: `deploy.prune` cannot prune a detector."""
        return ()

    def torch_name(self, path: tuple[str, ...]) -> str:
        """("params", "body", "stem_conv", "kernel") -> "backbone.body.conv1.weight"."""
        if path[1] == self.backbone_name:
            own = self._body(parent=None).torch_name((path[0], *path[2:]))
            return f"backbone.body.{own.removeprefix('features.')}"
        return rename(path, PYRAMID_NAMES | self.torch_names)


def full_size(images: jax.Array) -> jax.Array:
    """[B, 2] float32: height and width of images [B, H, W, C], padding included."""
    return jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.float32), (images.shape[0], 2))


def by_anchor(answers: list[jax.Array], columns: int) -> jax.Array:
    """Maps [B, h, w, anchors * columns] of the levels as [B, A, columns] float32: level, row, column, anchor."""
    flat = [x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3] // columns, columns) for x in answers]
    return jnp.concatenate(flat, axis=1).astype(jnp.float32)
