"""A card: the `config.json` that the Hugging Face hub keeps beside weights. It has the network, its input, its classes.

timm writes the network's name under "architecture", transformers under "architectures". Two networks can have
parameters of the same names and shapes and compute different things (timm's resnetaa50 and ResNet50). So the name in
the file is compared with `--arch`.
"""

import dataclasses
import json
import pathlib
import re

from data.picture import INTERPOLATIONS
from registry import UserError

NAME = "config.json"
TRANSFORMERS = {"ViT": "(ViT|DeiT)ForImageClassification(WithTeacher)?", "ConvNeXt": "ConvNextForImageClassification"}
TIMM = {  # --arch -> timm's names of the network, if they are not just --arch in lower case
    "ViT_Ti": r"(vit|deit)_tiny(_distilled)?_patch\d+_\d+",
    "ViT_S": r"(vit|deit)_small(_distilled)?_patch\d+_\d+",
    "ViT_B": r"(vit|deit)_base(_distilled)?_patch\d+_\d+",
    "ConvNeXt_T": "convnext_tiny",
    "MobileNetV2": "mobilenetv2_100|mobilenet_v2",
    **{
        f"EfficientNet_{size}": f"(tf_)?efficientnet_{size.lower()}" for size in ("B0", *(f"Lite{n}" for n in range(5)))
    },
}
# timm's arguments that act in training only, or that show in the shapes of the weights
SAFE = {"num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate"}
ACTIVATIONS = ("gelu",)  # transformers' names of the activation of this project's ViT and ConvNeXt


@dataclasses.dataclass(frozen=True)
class Card:
    """The entries of a `config.json` that matter here; empty where the file does not have them.

    Attributes:
        path: the file, for messages.
        architectures: names of the network.
        mean, std: of its input, pixels in [0, 1].
        image_size, resize, interpolation: the side of the square that is cropped, the short side that it is cropped
            from, and how pictures are resized; 0 and "" where the file does not say.
        class_names: in the order of the outputs.
        arguments: timm's `model_args`, "name=value", which change the named network.
        activation: transformers' `hidden_act`.
    """

    path: pathlib.Path | None = None
    architectures: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int = 0
    resize: int = 0
    interpolation: str = ""
    class_names: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    activation: str = ""


def read(path: pathlib.Path) -> Card:
    """Reads a `config.json`. The card is empty if the file is missing or is another program's."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return Card()
    if not isinstance(content, dict):
        return Card()
    timm = content.get("pretrained_cfg")
    timm = timm if isinstance(timm, dict) else {}
    names = content.get("architectures")
    names = [*_texts(names), *_texts([content.get("architecture") or timm.get("architecture")])]
    classes = _texts(content.get("label_names") or timm.get("label_names"))
    labels = content.get("id2label")
    if isinstance(labels, dict) and all(str(key).isdigit() for key in labels):
        classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
        classes = () if any(re.fullmatch(r"LABEL_\d+", name) for name in classes) else classes
    arguments = content.get("model_args")
    size, share = (_numbers(timm.get("input_size")) or (0,))[-1], timm.get("crop_pct")
    return Card(
        path=path,
        architectures=tuple(names),
        mean=_numbers(timm.get("mean")),
        std=_numbers(timm.get("std")),
        image_size=int(size),
        resize=int(size / share) if isinstance(share, (int, float)) and 0 < share <= 1 else 0,
        interpolation=method if (method := timm.get("interpolation")) in INTERPOLATIONS else "",
        class_names=classes,
        arguments=tuple(f"{key}={x}" for key, x in arguments.items()) if isinstance(arguments, dict) else (),
        activation=str(content.get("hidden_act") or ""),
    )


def _texts(value) -> tuple[str, ...]:
    return tuple(x for x in value if isinstance(x, str)) if isinstance(value, list) else ()


def _numbers(value) -> tuple[float, ...]:
    return tuple(x for x in value if isinstance(x, (int, float))) if isinstance(value, list) else ()


def check(card: Card, arch: str) -> None:
    """Raises `UserError` where the card names another network than `arch`.

    A network of the user's own, "module:attribute", is not checked.
    """
    if ":" in arch:
        return
    timm = TIMM.get(arch, re.escape(arch.lower()))
    ours = [rf"(cifar\d+_)?({timm})", re.escape(arch)]
    ours += [pattern for family, pattern in TRANSFORMERS.items() if arch.startswith(family)]
    strangers = [name for name in card.architectures if not any(re.fullmatch(p, name) for p in ours)]
    if strangers:
        raise UserError(
            f"{card.path} says that the weights are of '{strangers[0]}'; --arch is {arch}. Names and shapes may agree "
            "although the two compute different things.\n"
            "Give the --arch of that network, or convert the weights without this config.json if it is mistaken."
        )
    standard = "global_pool=token" if arch.startswith("ViT") else "global_pool=avg"
    others = [x for x in card.arguments if x.partition("=")[0] not in SAFE and x != standard]
    changes = [f"model_args {', '.join(others)}"] if others else []
    changes += [f"hidden_act {card.activation}"] if card.activation not in ("", *ACTIVATIONS) else []
    if changes:
        raise UserError(
            f"{card.path} says that the network differs from the standard {arch}: {'; '.join(changes)}.\n"
            "Convert the weights without this config.json if the difference does not change what the network computes."
        )
