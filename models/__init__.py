"""Networks: linen Modules that return `Outputs`. `create` builds a network by name, `names` lists the names."""

import functools
import importlib
from types import ModuleType

from models import nnx_network, ops, quantization, xla_cpu
from models.outputs import ATTENTION, LAST_MAP, NoFeatures, Outputs, Source, Taps, forward, resolve, stages
from models.players import Player
from models.view import View
from registry import Registry, UserError

__all__ = [
    "ATTENTION",
    "LAST_MAP",
    "NoFeatures",
    "Outputs",
    "Player",
    "Source",
    "Taps",
    "View",
    "create",
    "forward",
    "is_detector",
    "is_torch",
    "names",
    "ops",
    "registry",
    "resolve",
    "stages",
]

TORCH_LIBRARIES = ("timm", "torchvision")  # "timm:NAME" is a network that the library builds


def is_torch(name: str) -> bool:
    """Whether `name` is a network of one of PyTorch's libraries."""
    return name.partition(":")[0] in TORCH_LIBRARIES


def is_detector(name: str) -> bool:
    """Whether `name` is a registered network that returns boxes (`models.detectors`)."""
    return registry.entries.get(name, "").startswith("models.detectors.")


class Networks(Registry):
    """A registry with the networks of PyTorch's libraries, which are looked for when one is asked for."""

    def module(self, name: str) -> ModuleType:
        """`models.torch_network`; `UserError` where what the network `name` needs is not installed."""
        try:
            return importlib.import_module("models.torch_network")
        except ImportError as error:
            raise UserError(
                f"{name} needs torch, torchax and {name.partition(':')[0]}: {error}.\n"
                "Install them: pip install 'kd-cookbook[teachers]'"
            ) from None

    def _own(self, name):
        return self.module(name).constructor(name) if is_torch(name) else super()._own(name)


registry = Networks(
    "model",
    {
        "ResNet8": "models.resnet:resnet8",
        "ResNet14": "models.resnet:resnet14",
        "ResNet20": "models.resnet:resnet20",
        "ResNet32": "models.resnet:resnet32",
        "ResNet44": "models.resnet:resnet44",
        "ResNet56": "models.resnet:resnet56",
        "ResNet110": "models.resnet:resnet110",
        "ResNet8x4": "models.resnet:resnet8x4",
        "ResNet32x4": "models.resnet:resnet32x4",
        "ResNet18": "models.resnet_imagenet:resnet18",
        "ResNet34": "models.resnet_imagenet:resnet34",
        "ResNet50": "models.resnet_imagenet:resnet50",
        "ResNet101": "models.resnet_imagenet:resnet101",
        "WRN_16_1": "models.wrn:wrn_16_1",
        "WRN_16_2": "models.wrn:wrn_16_2",
        "WRN_40_1": "models.wrn:wrn_40_1",
        "WRN_40_2": "models.wrn:wrn_40_2",
        "WRN_28_10": "models.wrn:wrn_28_10",
        "VGG8": "models.vgg:vgg8",
        "VGG11": "models.vgg:vgg11",
        "VGG13": "models.vgg:vgg13",
        "VGG16": "models.vgg:vgg16",
        "VGG19": "models.vgg:vgg19",
        "MobileNetV1": "models.mobilenet:MobileNetV1",
        "MobileNetV2": "models.mobilenet:MobileNetV2",
        "ShuffleNetV1": "models.shufflenet:shufflenet_v1",
        "ShuffleNetV2": "models.shufflenet:shufflenet_v2",
        "ViT_Ti": "models.vit:vit_ti",
        "ViT_S": "models.vit:vit_s",
        "ViT_B": "models.vit:vit_b",
        "ConvNeXt_T": "models.convnext:convnext_t",
        "EfficientNet_B0": "models.efficientnet:efficientnet_b0",
        "EfficientNet_Lite0": "models.efficientnet:efficientnet_lite0",
        "EfficientNet_Lite1": "models.efficientnet:efficientnet_lite1",
        "EfficientNet_Lite2": "models.efficientnet:efficientnet_lite2",
        "EfficientNet_Lite3": "models.efficientnet:efficientnet_lite3",
        "EfficientNet_Lite4": "models.efficientnet:efficientnet_lite4",
        "CNN": "models.cnn:CNN",
        "Projected": "models.projected:projected",
        "RetinaNet_ResNet18": "models.detectors.retinanet:retinanet_resnet18",
        "RetinaNet_ResNet34": "models.detectors.retinanet:retinanet_resnet34",
        "RetinaNet_ResNet50": "models.detectors.retinanet:retinanet_resnet50",
        "RetinaNet_ResNet101": "models.detectors.retinanet:retinanet_resnet101",
        "RetinaNet_MobileNetV2": "models.detectors.retinanet:retinanet_mobilenetv2",
        "FasterRCNN_ResNet18": "models.detectors.faster_rcnn:faster_rcnn_resnet18",
        "FasterRCNN_ResNet34": "models.detectors.faster_rcnn:faster_rcnn_resnet34",
        "FasterRCNN_ResNet50": "models.detectors.faster_rcnn:faster_rcnn_resnet50",
        "FasterRCNN_ResNet101": "models.detectors.faster_rcnn:faster_rcnn_resnet101",
        "FasterRCNN_MobileNetV2": "models.detectors.faster_rcnn:faster_rcnn_mobilenetv2",
    },
)
names = registry.names


def create(name: str, num_classes: int, **options):
    """Builds a network by name.

    Args:
        name: one of `names()`, "module:attribute" of a network of your own (docs/models.md), or a frozen network of
            PyTorch: "timm:NAME", "torchvision:NAME" (docs/teachers.md).
        num_classes: K, the size of the last layer, at least 2.
        **options: the network's own fields, such as `dtype` (compute type; parameters stay float32). Lists become
            tuples, because JSON has no tuples. Every network has one more, `quantize` (`models.quantization.rule_of`).

    Returns:
        A linen Module; `module.apply(variables, images, train=...)` returns `Outputs`. A network of your own that is
        written with `flax.nnx` comes inside such a Module (`models.nnx_network`).

    Raises:
        UserError: an unknown name, with the nearest known one, or an option that the network does not have.
    """
    xla_cpu.prepare()
    build = registry.get(name)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if nnx_network.is_nnx(build):
        build = functools.partial(nnx_network.wrap, build)
    quantize = options.pop("quantize", None)
    try:
        model = build(num_classes=num_classes, **options)
    except TypeError as error:
        raise UserError(f"Cannot build {name} with {', '.join(['num_classes', *options])}: {error}.") from None
    return quantization.quantised(model, quantize) if quantize else model
