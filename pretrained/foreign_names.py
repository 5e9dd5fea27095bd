"""Other projects' names for the same weights: torchvision's, the papers' own and an older Flax cookbook's.

`models/*` name their variables after one project's state_dict (`torch_name`). Where several projects trained the same
network, the tables here bring the others' names to that one. Names only: the arrays stay as they are, but for
torchvision's ConvNeXt layer scale, which carries two axes of length 1.
"""

import re
from collections.abc import Callable

import numpy as np

Rules = list[tuple[str, str | Callable[[re.Match], str]]]


def _halved(first: int, text: str) -> Callable[[re.Match], str]:
    """torchvision's ConvNeXt counts downsamplings and stages in one row: feature 1 is stage 0, 2 and 3 are stage 1."""
    return lambda m: m.expand(text.replace("@", str((int(m[1]) - first) // 2)))


def _mobile_block(m: re.Match) -> str:
    """timm's stage and block -> torchvision's 17 blocks in one row, from 1."""
    return f"features.{1 + sum((1, 2, 3, 4, 3, 3, 1)[: int(m[1])]) + int(m[2])}."


# network's class -> dialects: (a name that only this dialect has, [(pattern, replacement)], applied in order)
DIALECTS: dict[str, list[tuple[str, Rules]]] = {
    "ViT": [
        (
            "class_token",  # torchvision
            [
                (r"^class_token$", "cls_token"),
                (r"^conv_proj\.", "patch_embed.proj."),
                (r"^encoder\.pos_embedding$", "pos_embed"),
                (r"^encoder\.ln\.", "norm."),
                (r"^heads\.head\.", "head."),
                (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
                (r"\.ln_([12])\.", r".norm\1."),
                (r"\.self_attention\.in_proj_", ".attn.qkv."),
                (r"\.self_attention\.out_proj\.", ".attn.proj."),
                (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
                (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
            ],
        ),
    ],
    "ConvNeXt": [
        (
            "features.0.0.weight",  # torchvision
            [
                (r"^features\.0\.", "stem."),
                (r"^features\.([1357])\.(\d+)\.", _halved(1, r"stages.@.blocks.\2.")),
                (r"^features\.([246])\.", _halved(0, "stages.@.downsample.")),
                (r"\.layer_scale$", ".gamma"),
                (r"\.block\.0\.", ".conv_dw."),
                (r"\.block\.2\.", ".norm."),
                (r"\.block\.3\.", ".mlp.fc1."),
                (r"\.block\.5\.", ".mlp.fc2."),
                (r"^classifier\.0\.", "head.norm."),
                (r"^classifier\.2\.", "head.fc."),
            ],
        ),
        (
            "downsample_layers.0.0.weight",  # the paper's own code
            [
                (r"^downsample_layers\.0\.", "stem."),
                (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
                (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
                (r"\.dwconv\.", ".conv_dw."),
                (r"\.pwconv([12])\.", r".mlp.fc\1."),
                (r"^norm\.", "head.norm."),
                (r"^head\.(weight|bias)$", r"head.fc.\1"),
            ],
        ),
    ],
    "MobileNetV2": [
        (
            "conv_stem.weight",  # timm, to torchvision's, which the standard network has
            [
                (r"^conv_stem\.", "features.0.0."),
                (r"^bn1\.", "features.0.1."),
                (r"^conv_head\.", "features.18.0."),
                (r"^bn2\.", "features.18.1."),
                (r"^classifier\.(weight|bias)$", r"classifier.1.\1"),
                (r"^blocks\.0\.0\.conv_dw\.", "features.1.conv.0.0."),  # the first block expands nothing
                (r"^blocks\.0\.0\.bn1\.", "features.1.conv.0.1."),
                (r"^blocks\.0\.0\.conv_pw\.", "features.1.conv.1."),
                (r"^blocks\.0\.0\.bn2\.", "features.1.conv.2."),
                (r"^blocks\.(\d+)\.(\d+)\.", _mobile_block),
                (r"\.conv_pw\.", ".conv.0.0."),
                (r"\.bn1\.", ".conv.0.1."),
                (r"\.conv_dw\.", ".conv.1.0."),
                (r"\.bn2\.", ".conv.1.1."),
                (r"\.conv_pwl\.", ".conv.2."),
                (r"\.bn3\.", ".conv.3."),
            ],
        ),
    ],
}

COOKBOOK: Rules = [  # the older Flax cookbook's CIFAR ResNets
    (r"^(params|batch_stats)/conv_init/", r"\1/stem_conv/"),
    (r"/bn_init/", "/stem_bn/"),
    (r"/block_(\d+)_(\d+)/block_\1_\2/", lambda m: f"/stage{int(m[1]) + 1}_block{m[2]}/"),
    (r"/(conv|bn)0/", r"/\g<1>A/"),
    (r"/(conv|bn)1/", r"/\g<1>2/"),
    (r"/(conv|bn)A/", r"/\g<1>1/"),
    (r"/(conv|bn)_proj/", r"/shortcut_\1/"),
]


def rename(name: str, rules: Rules) -> str:
    """`name` after every rule, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def translate(network: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state_dict under the names that the network's `torch_name` gives.

    Args:
        network: the class of the linen Module: "ViT", "ConvNeXt", ...
        state: name -> array in PyTorch's layout, in any of the dialects above; another one stays as it is.
    """
    for telltale, rules in DIALECTS.get(network, []):
        if telltale in state:
            state = {rename(name, rules): value for name, value in state.items()}
            return {n: x.reshape(-1) if n.endswith(".gamma") else x for n, x in state.items()}
    return state
