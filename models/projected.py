"""A network whose last map is projected to another network's width, so that it can take over that network's classifier.

    m = the backbone's last map [B, H, W, C];   p = ReLU(BN(conv1x1(ReLU(BN(conv3x3(ReLU(BN(conv1x1(m)))))))))
    logits = classifier(mean_hw p),   p [B, H, W, width], width / factor channels inside

Paper: Chen, Mei, Zhang, Wang, Feng, Chen. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022.
arXiv:2203.14001, section 3.2.

The paper's student keeps its projector after the training. So here the projector is a part of the network: its batch
norms have running statistics, and a file of weights contains it. The backbone's own classifier does not exist. The
convolutions have PyTorch's default initialisation.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import models
from models.layers import BatchNorm, Conv, default_uniform
from models.network import Network, rename
from models.outputs import Outputs
from registry import UserError


class Projector(nn.Module):
    """Three convolutions with batch norm and ReLU: [B, H, W, C] -> [B, H, W, width].

    Attributes:
        width: channels of the result.
        factor: the convolutions inside have width / factor channels.
        dtype: compute type.
    """

    width: int
    factor: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        inside = self.width // self.factor
        for i, (features, size) in enumerate(((inside, 1), (inside, 3), (self.width, 1)), start=1):
            x = Conv(features, size, kernel_init=default_uniform, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train))
        return x


class Projected(Network):
    """A backbone with a projector before the classifier.

    Attributes:
        backbone: a network whose embedding is the mean of a map.
        num_classes: K.
        width: channels of the projected map.
        factor: as in `Projector`.
        dtype: the projector's compute type; parameters, statistics and logits are float32.
    """

    backbone: nn.Module
    num_classes: int
    width: int = 256
    factor: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False, deltas: dict | None = None) -> Outputs:
        """images [B, H, W, C] float32 -> `Outputs`; the backbone's taps, then `projected`, `final`, `embedding`.

        `final` is the projected map and `embedding` its mean; the backbone's own are not among the taps.
        """
        ends = []

        def stop_before_the_mean(call, args, kwargs, context):
            if context.method_name != "pooled":
                return call(*args, **kwargs)
            ends.append((args, kwargs))
            return Outputs(logits=jnp.zeros(()), features={})

        with nn.intercept_methods(stop_before_the_mean):
            self.backbone(images, train, deltas)
        if not ends:
            raise UserError(
                f"Projected needs a backbone whose embedding is the mean of a map; {type(self.backbone).__name__}'s is "
                "not.\nTake a convolutional network: --config.student_options.backbone=ResNet8"
            )
        (tap, x, *more), options = ends[0]
        x = tap("projected", Projector(self.width, self.factor, self.dtype, name="projector")(x, train))
        return self.pooled(tap, x, *more, **options)

    def torch_name(self, path: tuple[str, ...]) -> str:
        """The backbone's names after `backbone.`; "projector.conv1.weight"; "classifier.weight"."""
        collection, first, *rest = path
        if first == "backbone":
            return f"backbone.{self.backbone.torch_name((collection, *rest))}"
        return rename(path, {})


def projected(
    num_classes: int,
    backbone: str = "ResNet8",
    backbone_options: dict | None = None,
    width: int = 256,
    factor: int = 2,
    dtype: Any = jnp.float32,
) -> Projected:
    """A network of this library with a projector before the classifier, for SimKD: backbone=NAME, width=CHANNELS.

    Args:
        num_classes: K.
        backbone: a name of `models.names()`; a convolutional network. A file of weights contains this name. A file must
            not choose what Python imports, so "module:attribute" is refused.
        backbone_options: the backbone's own options.
        width: channels of the projected map: those of the teacher's last map.
        factor: the projector has width / factor channels inside; the paper has 2, 4 and 8.
        dtype: compute type of backbone and projector.

    Raises:
        UserError: a backbone that is refused, or a width that the factor does not divide.

    Paper: Chen, Mei, Zhang, Wang, Feng, Chen, CVPR 2022, arXiv:2203.14001
    """
    if ":" in backbone or backbone == "Projected":
        raise UserError(
            f"The backbone of Projected is a network of this library by its name; got '{backbone}'.\n"
            "Example: --config.student_options.backbone=ResNet8"
        )
    whole = all(isinstance(number, int) and number >= 1 for number in (width, factor))
    if not whole or width % factor:
        raise UserError(
            "'width' and 'factor' of Projected must be whole numbers above 0, and the factor must divide the width; "
            f"got {width!r} and {factor!r}.\n"
            "Example: --config.student_options.width=256 --config.student_options.factor=2"
        )
    network = models.create(backbone, num_classes, dtype=dtype, **(backbone_options or {}))
    return Projected(network, num_classes, width, factor, dtype)
