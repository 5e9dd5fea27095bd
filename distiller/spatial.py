"""Comparing two networks' feature maps: pairs of stages, and maps of one resolution.

A method that reads stages has an option `stages`, which names the pairs: "1:1,2:3" pairs the student's stage 1 with the
teacher's stage 1, and the student's stage 2 with the teacher's stage 3. "last" is a network's last stage. Other taps
have their names: "p3:p4" pairs two levels of detectors, "p3" is short for "p3:p3", and "p3-p7" stands for all levels
from p3 to p7. A method declares the option by `paired_stages`, or by `one_pair` if it compares only one pair, and
passes the option to `stage_pairs`.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from models import stages
from models.vit import token_map
from options import limited

NAME = r"([1-9]\d*|[a-z]\w*)"  # a stage's number, "last", or a tap
PAIR = rf"({NAME}:{NAME}|(?!last)[a-z]\w*)"
NUMBERS = r"([1-9]\d*|last):([1-9]\d*|last)"
RANGE = r"(?P<word>[a-z_]+)(?P<first>\d+)-(?P=word)(?P<last>\d+)"
LAST = "last:last"


def as_map(feature: jax.Array) -> jax.Array:
    """Returns a feature as a map [B, H, W, C].

    A map is returned unchanged. A transformer's tokens [B, N, D] become the square map of its patches; the tokens
    before the patches (class, distillation) are left out.
    """
    if feature.ndim != 3:
        return feature
    return token_map(feature, extra_tokens=feature.shape[1] - math.isqrt(feature.shape[1]) ** 2)


def paired_stages(default: str = "", taps: bool = True):
    """Makes a field for pairs of stages, "STUDENT:TEACHER,..."; the default "" names no pairs.

    Args:
        default: of the field.
        taps: whether the pairs may have other taps by their names.
    """
    part = f"{PAIR}|{RANGE}" if taps else NUMBERS

    def rises(one):
        levels = re.fullmatch(RANGE, one)
        return not levels or int(levels["first"]) <= int(levels["last"])

    def holds(value):
        return value == default or all(re.fullmatch(part, one) and rises(one) for one in value.split(","))

    words = " of stages or taps, such as '1:1,2:3', 'last:last' or 'p3-p7'" if taps else ", such as '1:1,2:3'"
    return limited(default, f"name pairs STUDENT:TEACHER{words}", holds)


def one_pair(default: str = LAST, taps: bool = True):
    """Makes a field for one pair of stages, "STUDENT:TEACHER"; `taps` as in `paired_stages`."""
    part = PAIR if taps else NUMBERS
    words = " of stages or taps, such as '2:3', 'last:last' or 'p3'" if taps else ", such as '2:3' or 'last:last'"
    return limited(default, f"name one pair STUDENT:TEACHER{words}", lambda value: bool(re.fullmatch(part, value)))


def stage_pairs(student: dict, teacher: dict, choice: str = "", suffix: str = "") -> list[tuple[jax.Array, jax.Array]]:
    """Returns the pairs of stages that a method compares.

    Without a choice, each stage of the network with fewer stages gets one stage of the other network. Networks with
    equal numbers of stages pair in order. In the network with more stages, the paired stages are evenly spread, and the
    last one is among them: for 3 and 4 stages the pairs are (1, 1), (2, 2), (3, 4).

    Args:
        student, teacher: `Outputs.features`.
        choice: the method's option `stages`; "" for no choice.
        suffix: "" for the stages' outputs, "_preact" for the taps before their last ReLU. Taps with a name have none.

    Returns:
        (student's stage, teacher's stage) of every pair, in the order of the choice. Without a choice, in depth order.

    Raises:
        ValueError: a network has no such taps, or does not have a stage that the choice names.
    """
    s, t = stages(student, suffix), stages(teacher, suffix)
    named = _named(choice) if choice else []
    numbered = not named or any(name == "last" or name.isdecimal() for pair in named for name in pair)
    for who, found, features in (("student", s, student), ("teacher", t, teacher)):
        if not found and numbered:
            raise ValueError(
                f"The {who} has no taps stage1{suffix} ...; it has {sorted(features) or 'logits only'}. "
                "Take a network that has them (docs/models.md) or a method that reads other taps."
            )
    if named:
        return [
            (_feature(student, s, i, "student", choice), _feature(teacher, t, j, "teacher", choice)) for i, j in named
        ]
    n = min(len(s), len(t))

    def spread(found):
        return [found[(i + 1) * len(found) // n - 1] for i in range(n)]

    return list(zip(spread(s), spread(t), strict=True))


def _named(choice: str) -> list[tuple[str, str]]:
    """The pairs of names in a choice, with ranges written out."""
    pairs = []
    for part in choice.split(","):
        if levels := re.fullmatch(RANGE, part):
            numbers = range(int(levels["first"]), int(levels["last"]) + 1)
            names = [f"{levels['word']}{number}" for number in numbers]
            pairs += zip(names, names, strict=True)
        else:
            one, _, other = part.partition(":")
            pairs.append((one, other or one))
    return pairs


def _feature(features: dict, found: list, name: str, who: str, choice: str):
    """A network's stage or other tap; `found` are its stages."""
    if name != "last" and not name.isdecimal():
        if name not in features:
            raise ValueError(f"stages='{choice}' names the {who}'s tap {name}; the {who} has {sorted(features)}.")
        return features[name]
    number = len(found) if name == "last" else int(name)
    if number > len(found):
        raise ValueError(f"stages='{choice}' names the {who}'s stage {number}; the {who} has stages 1 to {len(found)}.")
    return found[number - 1]


def adaptive_average_pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Average-pools [B, H, W, C] to [B, height, width, C], for any two sizes, as PyTorch's adaptive pooling does.

    Cell i of n averages positions floor(i * N / n) up to, not including, ceil((i + 1) * N / n).
    """
    rows, columns = _pooling_matrix(x.shape[1], height), _pooling_matrix(x.shape[2], width)
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def _pooling_matrix(size: int, cells: int) -> np.ndarray:
    """[cells, size] float32, rows sum to 1."""
    matrix = np.zeros((cells, size), np.float32)
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def match_resolution(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average-pools the larger of two maps [B, H, W, C] (each axis by itself) to the smaller one's size.

    Tokens [B, N, D] become maps by `as_map`.
    """
    a, b = as_map(a), as_map(b)
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])

    def fit(x):
        return x if x.shape[1:3] == (height, width) else adaptive_average_pool(x, height, width)

    return fit(a), fit(b)
