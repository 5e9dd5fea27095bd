"""Faster R-CNN with a feature pyramid: a first head proposes boxes, a second one classifies and moves them.

Papers: Ren, He, Girshick, Sun. Faster R-CNN. NeurIPS 2015. arXiv:1506.01497; Lin et al. Feature Pyramid Networks for
Object Detection. CVPR 2017. arXiv:1612.03144. The network is torchvision's: levels p2 to p6, the proposals from all of
them, the second head from p2 to p5 (RoIAlign, two linear layers).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.detectors import detections
from models.detectors.detector import Detector, by_anchor, full_size
from models.detectors.roi_align import roi_align
from models.layers import Conv, Dense
from models.network import variant
from models.outputs import Outputs
from registry import UserError

normal = nn.initializers.normal(0.01)


class ProposalHead(nn.Module):
    """A 3x3 convolution with ReLU, then whether each anchor is an object, and its box; the same on every level."""

    channels: int
    per_cell: int
    dtype: Any = jnp.float32

    def setup(self):
        fields = {"use_bias": True, "kernel_init": normal, "dtype": self.dtype}
        self.conv = Conv(self.channels, 3, **fields)
        self.logits = Conv(self.per_cell, 1, **fields)
        self.boxes = Conv(4 * self.per_cell, 1, **fields)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(self.conv(x))
        return self.logits(x), self.boxes(x)


class BoxHead(nn.Module):
    """Two linear layers with ReLU on the maps of boxes, then the class scores, and a box for each class."""

    columns: int
    channels: int
    dtype: Any = jnp.float32

    def setup(self):
        self.fc6, self.fc7 = Dense(self.channels, dtype=self.dtype), Dense(self.channels, dtype=self.dtype)
        self.logits, self.boxes = Dense(self.columns), Dense(4 * self.columns)

    def __call__(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, R, bins, bins, C] -> (logits [B, R, columns], codes [B, R, columns, 4]), float32."""
        count, number, *_ = maps.shape
        x = maps.transpose(0, 1, 4, 2, 3)  # the order of PyTorch's weights: channel, row, column
        x = nn.relu(self.fc6(x.reshape(count, number, x.shape[2] * x.shape[3] * x.shape[4])))
        x = nn.relu(self.fc7(x))
        return self.logits(x), self.boxes(x).reshape(count, number, self.columns, 4)


class FasterRCNN(Detector):
    """A two-stage detector. `Detector` has the other attributes.

    The second head has K + 1 columns: column 0 is the background, and column k is class k - 1, in torchvision's order.

    Attributes:
        proposals: P, boxes of an image that the second head looks at. Where fewer are found, the last ones are empty.
        candidates: anchors of each level from which the proposals come, the best ones.
        head_channels: of the second head's linear layers.
    """

    proposals: int = 1000
    candidates: int = 1000
    head_channels: int = 1024

    first_level, extra = 2, "pool"
    background = 1
    class_layers = {("roi", "logits"): 1, ("roi", "boxes"): 4}
    torch_names = {
        r"^rpn\.conv$": "rpn.head.conv.0.0",
        r"^rpn\.logits$": "rpn.head.cls_logits",
        r"^rpn\.boxes$": "rpn.head.bbox_pred",
        r"^roi\.(fc\d)$": r"roi_heads.box_head.\1",
        r"^roi\.logits$": "roi_heads.box_predictor.cls_score",
        r"^roi\.boxes$": "roi_heads.box_predictor.bbox_pred",
    }

    def setup(self):
        super().setup()
        for name in ("proposals", "candidates", "head_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"'{name}' is at least 1; got {getattr(self, name)}.")
        self.rpn = ProposalHead(self.fpn_channels, self.per_cell, self.dtype)
        self.roi = BoxHead(self.num_classes + self.background, self.head_channels, self.dtype)

    def __call__(self, images: jax.Array, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs` with the second head's logits [B, P, K + 1] float32.

        Taps: the backbone's; `p2` ... `p6` [B, h, w, fpn_channels]; of the first head `rpn_logits` [B, A, 1] and
        `rpn_boxes` [B, A, 4], the codes relative to `anchors` [A, 4]; `proposals` [B, P, 4] in pixels, clipped to the
        images with their padding, in the order of falling scores; `boxes` [B, P, K + 1, 4], the codes relative to the
        proposals (`models.detectors.boxes`, weights `detections.ROI_WEIGHTS`). No gradient goes through the proposals.
        """
        tap, levels = self.pyramid(images, train, deltas)
        logits, codes = zip(*map(self.rpn, levels), strict=True)
        logits, codes = tap("rpn_logits", by_anchor(logits, 1)), tap("rpn_boxes", by_anchor(codes, 4))
        anchors = tap.features["anchors"] = self.anchors(images)
        answers = *jax.lax.stop_gradient((logits, codes)), anchors, self.counts(tap.features), full_size(images)
        proposals, _ = detections.proposals(*answers, candidates=self.candidates, most=self.proposals)
        tap.features["proposals"] = proposals
        logits, codes = self.classify((tap.features, proposals))
        tap("boxes", codes)
        return Outputs(logits, tap.features)

    def classify(self, inputs: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The second head's answers for any boxes: what `Outputs.classify` calls.

        Args:
            inputs: (features with `p2` ... `p5`, boxes [B, R, 4] in pixels). No gradient goes to the boxes.

        Returns:
            (logits [B, R, K + 1], codes [B, R, K + 1, 4]), float32.
        """
        features, boxes = inputs
        maps = [features[f"p{self.first_level + i}"] for i in range(self.levels - 1)]
        return self.roi(roi_align(maps, boxes, self.first_level))

    def detections(self, outputs: Outputs, size: jax.Array, **options) -> jax.Array:
        """The objects [B, most, 6] that the outputs show; the class of column k is k - 1.

        Args:
            outputs: of this network.
            size: [B, 2] float32, height and width at which boxes are cut.
            **options: of `models.detectors.detections.of_proposals`.
        """
        features = outputs.features
        return detections.of_proposals(outputs.logits, features["boxes"], features["proposals"], size, **options)


def _network(backbone: str):
    name, what = f"faster_rcnn_{backbone.lower()}", f"Faster R-CNN with a feature pyramid on {backbone}."
    return variant(FasterRCNN, name, what, "Ren et al., NeurIPS 2015, arXiv:1506.01497", backbone=backbone)


faster_rcnn_resnet18 = _network("ResNet18")
faster_rcnn_resnet34 = _network("ResNet34")
faster_rcnn_resnet50 = _network("ResNet50")
faster_rcnn_resnet101 = _network("ResNet101")
faster_rcnn_mobilenetv2 = _network("MobileNetV2")
