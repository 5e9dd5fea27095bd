"""Comparing the blocks of two transformers: the taps `block1`, `qkv1`, ..., and pairs of blocks.

A method that reads blocks has an option `blocks`, which names the pairs: "1:1,2:2" pairs the student's block 1 with the
teacher's block 1, and the student's block 2 with the teacher's block 2. "last" is a network's last block.
`paired_stages` and `one_pair` (distiller/spatial.py) check the option.
"""

import re

import jax

from models import Outputs

INSTEAD = "Use two ViTs, or a method that takes the maps of any network, such as MGD or FitNet."


def block_pairs(method: str, kind: str, student: Outputs, teacher: Outputs, choice: str) -> list[tuple]:
    """Returns the pairs of blocks that a method compares.

    Args:
        method: the method's name, for messages.
        kind: the tap of a block, "block" or "qkv".
        student, teacher: the networks' outputs.
        choice: pairs "STUDENT:TEACHER,...".

    Returns:
        (the student's tap, the teacher's tap) of every pair, in the order of `choice`.

    Raises:
        ValueError: a network is no transformer with such taps, or does not have a block that the choice names.
    """
    named = (pair.split(":") for pair in choice.split(","))
    return [
        (_tap(method, kind, student, i, "student", choice), _tap(method, kind, teacher, j, "teacher", choice))
        for i, j in named
    ]


def _tap(method: str, kind: str, outputs: Outputs, block: str, who: str, choice: str) -> jax.Array:
    found = {int(m[1]): name for name in outputs.features if (m := re.fullmatch(rf"{kind}(\d+)", name))}
    if not found:
        raise ValueError(
            f"{method} reads the blocks of a transformer (taps {kind}1, ...); the {who} has "
            f"{sorted(outputs.features) or 'logits only'}.\n{INSTEAD}"
        )
    number = max(found) if block == "last" else int(block)
    if number not in found:
        raise ValueError(f"blocks='{choice}' names the {who}'s block {number}; the {who} has blocks 1 to {max(found)}.")
    return outputs.features[found[number]]
