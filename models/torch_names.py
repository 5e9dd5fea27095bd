"""How a network says what its reference in PyTorch calls each of its variables."""

import re
from collections.abc import Callable

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def rename(path: tuple[str, ...], rules: dict[str, str | Callable[[re.Match], str]]) -> str:
    """A variable's name in the reference's state_dict.

    Args:
        path: (collection, module, ..., variable), such as ("params", "stage1_block0", "conv1", "kernel").
        rules: pattern -> replacement (as in `re.sub`), applied in order to the modules' names joined by dots.

    Returns:
        The name, such as "layer1.0.conv1.weight".
    """
    _, *modules, leaf = path
    name = ".".join(modules)
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return f"{name}.{LEAVES.get(leaf, leaf)}"
