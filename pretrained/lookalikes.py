"""Guesses a state_dict's origin from names that only one project or one network has. Only messages use the guess."""

import re

import numpy as np


def looks_like(tensors: dict[str, np.ndarray]) -> str:
    """A phrase about the origin of the names, such as "torchvision's names of a ViT".

    Args:
        tensors: name without prefix -> array.
    """
    for patterns, phrase in LOOKS:
        if all(any(re.search(pattern, name) for name in tensors) for pattern in patterns):
            return phrase
    if "conv1.weight" in tensors and any(name.startswith("layer1.0.") for name in tensors):
        return _resnet(tensors)
    firsts = list(dict.fromkeys(name.partition(".")[0] for name in tensors))
    return f"no network that is known here; its modules are {', '.join(firsts[:8])}{' ...' if len(firsts) > 8 else ''}"


OURS = "this project's is the benchmarks' form for small images"
LOOKS = (  # (patterns that all occur, the phrase); the first that fits
    (
        (r"^(vit|deit|resnet|convnext|swin|mobilenet_v2)\.(embeddings|encoder|embedder|conv_stem)\.",),
        "transformers' names",
    ),
    (
        (r"\.attention\.attention\.query\.",),
        "transformers' names of a ViT; take the prefix before 'vit.' off with --prefix",
    ),
    ((r"^params/",), "Flax's names"),
    ((r"^backbone\.fpn\.", r"^roi_heads\.mask_"), "torchvision's Mask R-CNN"),
    ((r"^backbone\.fpn\.", r"^roi_heads\.keypoint_"), "torchvision's Keypoint R-CNN"),
    ((r"^backbone\.fpn\.", r"^roi_heads\.box_head\.fc6\."), "torchvision's Faster R-CNN"),
    ((r"^backbone\.fpn\.", r"bbox_ctrness\."), "torchvision's FCOS"),
    ((r"^backbone\.fpn\.", r"^head\.classification_head\."), "torchvision's RetinaNet"),
    (
        (r"^features\.0\.weight$", r"^classifier\.6\.weight$"),
        f"torchvision's VGG with its three-layer classifier; {OURS}, with one linear layer",
    ),
    ((r"^block0\.0\.weight$",), "the distillation benchmarks' VGG"),
    ((r"^layers\.0\.blocks\.0\.attn\.relative_position",), "a Swin transformer"),
    ((r"^features\.denseblock1\.|^features\.conv0\.",), "torchvision's DenseNet"),
    ((r"^(Mixed_5b|Conv2d_1a_3x3)\.",), "Inception"),
    ((r"^_blocks\.0\.|^_conv_stem\.",), "lukemelas' EfficientNet"),
    ((r"^stage2\.0\.branch[12]\.",), f"torchvision's ShuffleNetV2; {OURS}"),
    ((r"^features\.\d+\.block\.\d+\.",), "torchvision's MobileNetV3, ConvNeXt or EfficientNet"),
    ((r"^features\.0\.0\.weight$", r"^features\.1\.conv\.0\.0\.weight$"), "torchvision's MobileNetV2"),
    ((r"^features\.0\.0\.weight$",), "torchvision's names"),
    ((r"^conv_stem\.weight$", r"^blocks\.0\.0\."), "timm's MobileNet or EfficientNet"),
    ((r"^class_token$",), "torchvision's names of a ViT"),
    (
        (r"^blocks\.\d+\.ls1\.gamma$",),
        "timm's names of a ViT with layer scale (DeiT III, DINOv2); this project's ViT has none",
    ),
    (
        (r"^norm_pre\.weight$",),
        "timm's names of CLIP's ViT, which has a norm before the blocks; this project's ViT has none",
    ),
    (
        (r"^fc_norm\.weight$",),
        "timm's names of a ViT that averages its tokens; this project's ViT reads the class token",
    ),
    ((r"^blocks\.\d+\.attn\.qkv\.",), "timm's names of a ViT"),
    ((r"^visual\.",), "CLIP's names; --prefix visual takes its image network"),
    ((r"^stages\.0\.blocks\.0\.",), "timm's names of a network with stages"),
    (
        (r"^conv1\.0\.weight$", r"^layer1\.0\."),
        "timm's ResNet with a deep stem (resnet50d); this project's has one convolution",
    ),
    ((r"^layer1\.\d+\.se\.",), "a ResNet with squeeze-and-excitation; this project's has none"),
    ((r"^block1\.layer\.0\.",), "the distillation benchmarks' WRN"),
)


def _resnet(tensors: dict[str, np.ndarray]) -> str:
    """A phrase with a ResNet's depth, shortcut and head, read from its names."""
    counts = []
    while any(name.startswith(f"layer{len(counts) + 1}.") for name in tensors):
        stage = f"layer{len(counts) + 1}."
        counts.append(len({name.split(".")[1] for name in tensors if name.startswith(stage)}))
    bottleneck = "layer1.0.conv3.weight" in tensors
    depth = (3 if bottleneck else 2) * sum(counts) + 2
    kind = "bottleneck" if bottleneck else "basic"
    phrase = f"a ResNet of depth {depth} ({' + '.join(map(str, counts))} {kind} blocks)"
    shortcut = [name for name in tensors if re.search(r"\.(downsample|shortcut)\.", name)]
    if not shortcut:
        phrase += ", with shortcut A (a shortcut without weights); this project's have shortcut B (a 1x1 convolution)"
    heads = [name.rpartition(".")[0] for name, value in tensors.items() if value.ndim == 2 and name.endswith("weight")]
    if heads and heads != ["fc"]:
        phrase += f", with a head called {', '.join(heads)}"
    return phrase
