"""Networks: linen Modules that return `Outputs`. `create` is the only door, `names` lists what is behind it."""

from models.outputs import Outputs, Taps, forward, stages
from registry import Registry

__all__ = ["Outputs", "Taps", "create", "forward", "names", "registry", "stages"]

registry = Registry(
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
    },
)
names = registry.names


def create(name: str, num_classes: int, **options):
    """Builds a network by name.

    Args:
        name: one of `names()`.
        num_classes: K, the size of the last layer, at least 2.
        **options: the network's own fields, such as `dtype` (compute type; parameters stay float32).

    Returns:
        A linen Module; `module.apply(variables, images, train=...)` returns `Outputs`.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    return registry.get(name)(num_classes=num_classes, **options)
