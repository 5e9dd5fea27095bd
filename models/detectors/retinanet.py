"""RetinaNet: a class and a box for every anchor of a feature pyramid, in one pass.

Paper: Lin, Goyal, Girshick, He, Dollar. Focal Loss for Dense Object Detection. ICCV 2017. arXiv:1708.02002.
The network is torchvision's: levels p3 to p7, p6 from p5, and plain towers without norms.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.detectors import detections
from models.detectors.detector import Detector, by_anchor
from models.layers import Conv
from models.network import variant
from models.outputs import Outputs
from registry import UserError

PRIOR = 0.01  # the probability that a new network gives each class
normal = nn.initializers.normal(0.01)


class Head(nn.Module):
    """3x3 convolutions with ReLUs, and a last one to `outputs` channels; the same weights on every level."""

    depth: int
    channels: int
    outputs: int
    bias: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        fields = {"use_bias": True, "kernel_init": normal, "dtype": self.dtype}
        self.conv = [Conv(self.channels, 3, **fields) for _ in range(self.depth)]
        self.last = Conv(self.outputs, 3, bias_init=nn.initializers.constant(self.bias), **fields)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.conv:
            x = nn.relu(conv(x))
        return self.last(x)


class RetinaNet(Detector):
    """A one-stage detector. `Detector` has the other attributes.

    The columns of `logits` are the classes, each with a sigmoid of its own. torchvision's networks have a column 0
    that is never a target: their K is 91 for COCO.

    Attributes:
        head_convs: 3x3 convolutions of each head before its last one.
    """

    head_convs: int = 4

    class_layers = {("class_head", "last"): 1}
    torch_names = {
        r"^class_head\.conv_(\d+)$": r"head.classification_head.conv.\1.0",
        r"^class_head\.last$": "head.classification_head.cls_logits",
        r"^box_head\.conv_(\d+)$": r"head.regression_head.conv.\1.0",
        r"^box_head\.last$": "head.regression_head.bbox_reg",
    }

    def setup(self):
        super().setup()
        if self.head_convs < 0:
            raise UserError(f"'head_convs' is at least 0; got {self.head_convs}.")
        shape, bias = (self.head_convs, self.fpn_channels), -math.log((1 - PRIOR) / PRIOR)
        self.class_head = Head(*shape, self.per_cell * self.num_classes, bias, self.dtype)
        self.box_head = Head(*shape, self.per_cell * 4, dtype=self.dtype)

    def sizes(self, side: int) -> tuple[float, ...]:
        return (side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3)))

    def __call__(self, images: jax.Array, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs` with the logits [B, A, K] float32 of every anchor.

        Taps: the backbone's; `p3` ... `p7` [B, h, w, fpn_channels]; `boxes` [B, A, 4] float32, the codes relative to
        the anchors (`models.detectors.boxes`); `anchors` [A, 4], constants. A: level, row, column, ratio, size.
        """
        tap, levels = self.pyramid(images, train, deltas)
        tap("boxes", by_anchor([self.box_head(x) for x in levels], 4))
        tap.features["anchors"] = self.anchors(images)
        return Outputs(by_anchor([self.class_head(x) for x in levels], self.num_classes), tap.features)

    def detections(self, outputs: Outputs, size: jax.Array, **options) -> jax.Array:
        """The objects [B, most, 6] that the outputs show.

        Args:
            outputs: of this network.
            size: [B, 2] float32, height and width at which boxes are cut.
            **options: of `models.detectors.detections.of_anchors`.
        """
        features = outputs.features
        answers = outputs.logits, features["boxes"], features["anchors"], self.counts(features)
        return detections.of_anchors(*answers, size, **options)


def _network(backbone: str):
    name, what = f"retinanet_{backbone.lower()}", f"RetinaNet with a feature pyramid on {backbone}."
    return variant(RetinaNet, name, what, "Lin et al., ICCV 2017, arXiv:1708.02002", backbone=backbone)


retinanet_resnet18 = _network("ResNet18")
retinanet_resnet34 = _network("ResNet34")
retinanet_resnet50 = _network("ResNet50")
retinanet_resnet101 = _network("ResNet101")
retinanet_mobilenetv2 = _network("MobileNetV2")
