"""Explanation maps: which pixels speak for a class. One family a file, one line a map here."""

import dataclasses
import math

from explain.base import Explanation, predicted, top_k
from registry import Registry, UserError, unknown

__all__ = ["Explanation", "create", "names", "predicted", "registry", "top_k"]

registry = Registry(
    "explanation map",
    {
        "CAM": "explain.cam:CAM",
        "GradCAM": "explain.cam:GradCAM",
        "GradCAM++": "explain.cam:GradCAMPlusPlus",
        "LayerCAM": "explain.cam:LayerCAM",
        "InputGradient": "explain.gradients:InputGradient",
        "GradientTimesInput": "explain.gradients:GradientTimesInput",
        "SmoothGrad": "explain.gradients:SmoothGrad",
        "IntegratedGradients": "explain.gradients:IntegratedGradients",
        "RISE": "explain.rise:RISE",
        "RawAttention": "explain.attention:RawAttention",
        "AttentionRollout": "explain.attention:AttentionRollout",
        "RelevancePropagation": "explain.relevance:RelevancePropagation",
    },
)
names = registry.names


def create(name: str, **options) -> Explanation:
    """Builds a map.

    Args:
        name: one of `names()`.
        **options: the map's fields, such as `tap`.

    Returns:
        A small frozen dataclass, hashable: `map(model, variables, images, target)` gives [B, H, W] float32.

    Raises:
        UserError: an unknown name or option with the nearest known one, or a value of the wrong type or range.
    """
    if not isinstance(name, str):
        raise UserError(f"A map's name is text, one of {', '.join(names())}; got {name!r}.")
    kind = registry.get(name)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for key, value in options.items():
        if key not in defaults:
            raise unknown(f"option of {name}", key, defaults)
        default = defaults[key]
        fits = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, fits) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise UserError(f"'{key}' of {name} is like its default, {default!r}; got {value!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"'{key}' of {name} must be a finite number (default {default}); got {value}.")
    return kind(**options)
