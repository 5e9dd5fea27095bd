"""Detectors of five convolutions, which compile in seconds, and few pictures to train them on."""

from unittest import mock

import flax.linen as nn

from data import scenes
from data.dataset import Dataset
from models.detectors.faster_rcnn import FasterRCNN
from models.detectors.retinanet import RetinaNet
from models.layers import BatchNorm, Conv
from models.outputs import Outputs, Taps


def few(data_dir: str = "") -> Dataset:
    """Scenes with the first quarter of its training pictures."""
    with mock.patch.object(scenes, "TRAIN", 600):
        return scenes.load(data_dir)


class Body(nn.Module):
    """Four stages of one convolution each, with strides 4, 8, 16 and 32."""

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        tap = Taps(deltas)
        x = tap("stem", nn.relu(BatchNorm()(Conv(8, 3, 2)(images), train)))
        for number in range(1, 5):
            x = tap(f"stage{number}", nn.relu(BatchNorm()(Conv(8, 3, 2)(x), train)))
        return Outputs(x, tap.features)


class _Tiny:
    def _body(self, **options):
        del options
        return Body()


class TinyRetinaNet(_Tiny, RetinaNet):
    """RetinaNet with one convolution in each head."""

    fpn_channels: int = 8
    anchor_size: int = 8
    head_convs: int = 1


class TinyFasterRCNN(_Tiny, FasterRCNN):
    """Faster R-CNN with 16 proposals."""

    fpn_channels: int = 8
    anchor_size: int = 8
    proposals: int = 16
    candidates: int = 16
    head_channels: int = 16
