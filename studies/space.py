"""The space of a search: config keys, and the values that each may take.

A dimension is text of the form KEY=KIND. KEY is a key of `configs/default.py`, or one inside a key, such as
`distiller_options.temperature`. KIND is one of

    0.01:0.1          a number between the two
    log:0.01:100      the same, with a uniform logarithm
    int:1:8           a whole number between the two, both included
    choice:sgd,adamw  one of these
"""

import dataclasses
import math

from configs.default import KEYS
from registry import UserError, unknown

FORMS = "LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH or choice:A,B"


@dataclasses.dataclass(frozen=True)
class Dimension:
    """A config key and the values that it may take.

    Attributes:
        key: the key, with dots.
        kind: "number", "log", "int" or "choice".
        values: (low, high), or the choices as text.
    """

    key: str
    kind: str
    values: tuple

    def suggest(self, trial) -> str:
        """Returns the value of an Optuna trial, as text for the command line."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, list(self.values))
        if self.kind == "int":
            return str(trial.suggest_int(self.key, *self.values))
        return repr(trial.suggest_float(self.key, *self.values, log=self.kind == "log"))

    @property
    def extremes(self) -> tuple[str, str]:
        """The first and the last value, as text."""
        return str(self.values[0]), str(self.values[-1])


def parse(texts: list[str]) -> list[Dimension]:
    """Reads the dimensions of a space; raises `UserError` with the fix if one is wrong or named twice."""
    found = [_dimension(text) for text in texts]
    keys = [dimension.key for dimension in found]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--space names {key} twice. Leave one out.")
    return found


def _dimension(text: str) -> Dimension:
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise UserError(f"--space takes KEY=VALUES; got '{text}'. VALUES is {FORMS}.")
    if key.partition(".")[0] not in KEYS:
        raise unknown("config key", key.partition(".")[0], KEYS)
    kind, *ends = values.split(":")
    if kind == "choice":
        choices = tuple(choice for choice in ":".join(ends).split(",") if choice)
        if len(set(choices)) < 2 or len(set(choices)) < len(choices):
            raise UserError(f"--space {key}: give two or more different choices, such as choice:sgd,adamw.")
        return Dimension(key, "choice", choices)
    if kind not in ("log", "int"):
        kind, ends = "number", [kind, *ends]
    try:
        low, high = (int(end) if kind == "int" else float(end) for end in ends)
    except ValueError:
        raise UserError(f"--space {key}: '{values}' is not {FORMS}.") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (kind != "log" or low > 0)):
        above = " and both above 0" if kind == "log" else ""
        raise UserError(f"--space {key}: '{values}': the first number must be less than the second{above}.")
    return Dimension(key, kind, (low, high))
