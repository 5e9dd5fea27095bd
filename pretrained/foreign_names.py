"""Other projects' names for the same weights: torchvision's, transformers', the papers' own, an older Flax cookbook's.

Each network in `models/` names its variables after one project's state_dict (`torch_name`). A dialect is another
project's set of names for the same network; the tables here turn dialects into the network's own names. The arrays stay
as they are, with two exceptions: torchvision's ConvNeXt layer scale has two more axes of length 1, and transformers
keeps the query, key and value of a ViT's attention in three tensors.
"""

import re
from collections.abc import Callable

import numpy as np

Rules = list[tuple[str, str | Callable[[re.Match], str]]]


def _halved(first: int, text: str) -> Callable[[re.Match], str]:
    """A replacement for torchvision's ConvNeXt, which counts downsamplings and stages together; "@" is the stage.

    Feature 1 is stage 0, features 2 and 3 are stage 1.
    """
    return lambda m: m.expand(text.replace("@", str((int(m[1]) - first) // 2)))


def _mobile_block(m: re.Match) -> str:
    """timm's stage and block -> torchvision's number of the block, 1 to 17."""
    return f"features.{1 + sum((1, 2, 3, 4, 3, 3, 1)[: int(m[1])]) + int(m[2])}."


def _efficient_blocks(state: dict[str, np.ndarray]) -> Rules:
    """Rules from lukemelas' numbers of blocks to timm's groups. A block of another width begins a group."""
    group, block, width, place = -1, 0, None, {}
    while f"_blocks.{len(place)}._project_conv.weight" in state:
        features = state[f"_blocks.{len(place)}._project_conv.weight"].shape[0]
        group, block = (group, block + 1) if features == width else (group + 1, 0)
        width, place[str(len(place))] = features, f"blocks.{group}.{block}."
    return [
        (r"^_conv_stem\.", "conv_stem."),
        (r"^_bn0\.", "bn1."),
        (r"^_conv_head\.", "conv_head."),
        (r"^_bn1\.", "bn2."),
        (r"^_fc\.", "classifier."),
        (r"^_blocks\.(\d+)\.", lambda m: place.get(m[1], m[0])),
        (r"\._se_(reduce|expand)\.", r".se.conv_\1."),
        (r"\._depthwise_conv\.", ".conv_dw."),
        (r"^(blocks\.0\.\d+)\._project_conv\.", r"\1.conv_pw."),  # the first group has no expansion
        (r"^(blocks\.0\.\d+)\._bn([12])\.", r"\1.bn\2."),
        (r"\._expand_conv\.", ".conv_pw."),
        (r"\._project_conv\.", ".conv_pwl."),
        (r"\._bn([012])\.", lambda m: f".bn{int(m[1]) + 1}."),
    ]


# torchvision's detectors before its version 0.13, where a convolution was not yet inside a block
OLD_DETECTOR: Rules = [
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (
        r"^(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$",
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
]

# network's class -> dialects: (a name that only this dialect has, [(pattern, replacement)], applied in order; or a
# function of the state_dict that returns them)
DIALECTS: dict[str, list[tuple[str, Rules | Callable[[dict], Rules]]]] = {
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
        *(
            (
                f"{model}.embeddings.cls_token",  # transformers
                [
                    (rf"^{model}\.(layernorm\.|embeddings\.|encoder\.)", r"\1"),
                    (r"^embeddings\.(cls_token)$", r"\1"),
                    (r"^embeddings\.distillation_token$", "dist_token"),
                    (r"^embeddings\.position_embeddings$", "pos_embed"),
                    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
                    (r"^layernorm\.", "norm."),
                    (r"^(cls_)?classifier\.", "head."),
                    (r"^distillation_classifier\.", "head_dist."),
                    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
                    (r"\.attention\.attention\.", ".attn."),
                    (r"\.attention\.output\.dense\.", ".attn.proj."),
                    (r"\.intermediate\.dense\.", ".mlp.fc1."),
                    (r"\.output\.dense\.", ".mlp.fc2."),
                    (r"\.layernorm_before\.", ".norm1."),
                    (r"\.layernorm_after\.", ".norm2."),
                ],
            )
            for model in ("vit", "deit")
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
            "conv_stem.weight",  # timm's names become torchvision's, which the standard network has
            [
                (r"^conv_stem\.", "features.0.0."),
                (r"^bn1\.", "features.0.1."),
                (r"^conv_head\.", "features.18.0."),
                (r"^bn2\.", "features.18.1."),
                (r"^classifier\.(weight|bias)$", r"classifier.1.\1"),
                (r"^blocks\.0\.0\.conv_dw\.", "features.1.conv.0.0."),  # the first block has no expansion
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
    "EfficientNet": [
        ("_conv_stem.weight", _efficient_blocks),  # lukemelas' names become timm's, which the network has
        (
            "features.0.0.weight",  # torchvision
            [
                (r"^features\.0\.0\.", "conv_stem."),
                (r"^features\.0\.1\.", "bn1."),
                (r"^features\.8\.0\.", "conv_head."),
                (r"^features\.8\.1\.", "bn2."),
                (r"^classifier\.1\.", "classifier."),
                (r"^features\.(\d+)\.(\d+)\.block\.", lambda m: f"blocks.{int(m[1]) - 1}.{m[2]}."),
                (r"\.\d\.fc1\.", ".se.conv_reduce."),
                (r"\.\d\.fc2\.", ".se.conv_expand."),
                (r"^(blocks\.0\.\d+)\.0\.0\.", r"\1.conv_dw."),  # the first group has no expansion
                (r"^(blocks\.0\.\d+)\.0\.1\.", r"\1.bn1."),
                (r"^(blocks\.0\.\d+)\.2\.0\.", r"\1.conv_pw."),
                (r"^(blocks\.0\.\d+)\.2\.1\.", r"\1.bn2."),
                (r"^(blocks\.\d+\.\d+)\.0\.0\.", r"\1.conv_pw."),
                (r"^(blocks\.\d+\.\d+)\.0\.1\.", r"\1.bn1."),
                (r"^(blocks\.\d+\.\d+)\.1\.0\.", r"\1.conv_dw."),
                (r"^(blocks\.\d+\.\d+)\.1\.1\.", r"\1.bn2."),
                (r"^(blocks\.\d+\.\d+)\.3\.0\.", r"\1.conv_pwl."),
                (r"^(blocks\.\d+\.\d+)\.3\.1\.", r"\1.bn3."),
            ],
        ),
    ],
}

OLD_NAMES = ("backbone.fpn.inner_blocks.0.weight", "head.classification_head.conv.2.weight", "rpn.head.conv.weight")
DIALECTS |= {network: [(old, OLD_DETECTOR) for old in OLD_NAMES] for network in ("RetinaNet", "FasterRCNN")}

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
    """Applies every rule to `name`, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


QKV = ("query", "key", "value")


def translate(network: str, state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Turns the names of a state_dict into those that the network's `torch_name` returns.

    Args:
        network: the class of the linen Module: "ViT", "ConvNeXt", ...
        state: name -> array in PyTorch's layout, in one of the dialects above or in the network's own names.

    Returns:
        (name -> array, new name -> the name in `state`). The second dict is empty if no dialect was found.
    """
    for telltale, rules in DIALECTS.get(network, []):
        if telltale in state:
            rules = rules(state) if callable(rules) else rules
            origin = {rename(name, rules): name for name in state}
            state = {name: state[old] for name, old in origin.items()}
            for first in [name for name in state if ".attn.query." in name]:
                parts = [first.replace(".query.", f".{part}.") for part in QKV]
                if all(part in state for part in parts):
                    fused = first.replace(".query.", ".qkv.")
                    state[fused] = np.concatenate([state.pop(part) for part in parts])
                    origin[fused] = origin[first]
            return {n: x.reshape(-1) if n.endswith(".gamma") else x for n, x in state.items()}, origin
    return state, {}
