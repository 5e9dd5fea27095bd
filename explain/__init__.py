"""Explanation maps: how much each pixel speaks for a class. Each family has one file, each map one line here."""

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
    """Build an explanation map by its name.

    Args:
        name: one of `names()`.
        **options: the map's fields, such as `tap`.

    Returns:
        A frozen, hashable dataclass. Calling it with (model, variables, images, target) returns [B, H, W] float32.

    Raises:
        UserError: an unknown name or option (the message has the nearest known one); a value of the wrong type or
            range.
    """
    if not isinstance(name, str):
        raise UserError(f"The name of a map is text, one of {', '.join(names())}; got {name!r}.")
    kind = registry.get(name)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for key, value in options.items():
        if key not in defaults:
            raise unknown(f"option of {name}", key, defaults)
        default = defaults[key]
        fits = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, fits) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise UserError(f"'{key}' of {name} has the type of its default {default!r}; got {value!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"'{key}' of {name} must be a finite number (default {default}); got {value}.")
    return kind(**options)
