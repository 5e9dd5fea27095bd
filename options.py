"""Options: dataclass fields with limits on their values, and the check of values against the limits.

Distillers (linen Modules) and strategies (frozen dataclasses) declare their options in the same way:

    class AT(Distiller):
        weight: float = not_negative(1000.0)
        p: int = positive(2)

    check("option of AT", AT, {"p": 0})  # UserError: 'p' must be above 0 (default 2); got 0.

A field with a plain default has a type and no limit. A field whose default is a tuple takes a tuple or a list; the type
and the limit hold for each item.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from registry import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Limit:
    """The values that an option allows.

    Attributes:
        words: the limit after "must", for messages ("be above 0").
        holds: value -> whether the limit allows the value.
    """

    words: str
    holds: Callable[[Any], bool]


def positive(default):
    """A field of a number above 0."""
    return limited(default, "be above 0", lambda value: value > 0)


def not_negative(default):
    """A field of a number that is 0 or more."""
    return limited(default, "not be negative", lambda value: value >= 0)


def at_least(low, default):
    """A field of a number that is `low` or more."""
    return limited(default, f"be at least {low}", lambda value: value >= low)


def between(low, high, default, *, with_low: bool = True, with_high: bool = True):
    """A field of a number from `low` to `high`.

    Args:
        low: the lower end.
        high: the upper end.
        default: the field's default.
        with_low: whether `low` itself is allowed.
        with_high: whether `high` itself is allowed.
    """
    if with_low and with_high:
        words = f"be from {low} to {high}"
    else:
        words = f"be {'at least' if with_low else 'above'} {low} and {'at most' if with_high else 'below'} {high}"
    return limited(default, words, lambda x: low <= x <= high and (with_low or x > low) and (with_high or x < high))


def one_of(default: str, *others: str):
    """A field of a name: `default` or one of `others`."""
    *first, last = map(repr, (default, *others))
    return limited(default, f"be {', '.join(first)} or {last}", (default, *others).__contains__)


def only_with(option, **others):
    """Returns the field `option` with a condition: each option in `others` must have one of the values given for it.

    Otherwise `option` has no effect (`without_effect`):
    `gamma: float = only_with(positive(0.4), kernel=(True,))`.
    """
    if not isinstance(option, dataclasses.Field):
        option = dataclasses.field(default=option)
    return dataclasses.field(default=option.default, metadata={**option.metadata, "only_with": others})


def without_effect(owner: type, options: dict) -> dict[str, str]:
    """Returns name -> reason for each of the `options` that has no effect, given the others and `owner`'s defaults."""
    fields, found = {field.name: field for field in dataclasses.fields(owner)}, {}
    for name in options:
        for other, values in fields[name].metadata.get("only_with", {}).items():
            value = options.get(other, fields[other].default)
            if value not in values:
                found[name] = f"'{other}' is {value!r}, not {' or '.join(map(repr, values))}"
    return found


def check(kind: str, owner: type, options: dict, hidden: tuple[str, ...] = ("parent", "name")) -> None:
    """Checks values for the fields of a dataclass before the dataclass is built.

    Args:
        kind: what the options are, for messages ("option of AT").
        owner: the dataclass.
        options: name -> value.
        hidden: fields of `owner` that are not options.

    Raises:
        UserError: an unknown name (with the nearest known one), a value of another type than the field's default, a
            number that is not finite, or a value outside the field's limit.
    """
    fields = {field.name: field for field in dataclasses.fields(owner) if field.name not in hidden}
    for name, value in options.items():
        if name not in fields:
            raise unknown(kind, name, fields)
        default, limit = fields[name].default, fields[name].metadata.get("limit")
        like, values = default, [value]
        if isinstance(default, tuple):
            if not isinstance(value, (tuple, list)) or (default and not value):
                items = "one or more numbers" if default else "numbers"
                raise UserError(f"'{name}' must be a list of {items} (default {default}); got {value!r}.")
            like, values = (default or (0.0,))[0], value
        for one in values:
            if problem := _problem(like, limit, one):
                raise UserError(f"'{name}' must {problem} (default {default!r}); got {one!r}.")


def _problem(like, limit: Limit | None, value) -> str:
    """Returns the rule that `value` breaks ("be above 0"); empty if `value` is allowed.

    Args:
        like: a value of the right type.
        limit: the field's limit.
        value: the value to check.
    """
    for kind, words in ((bool, "be True or False"), (str, "be a string")):
        if isinstance(like, kind) and not isinstance(value, kind):
            return words
    if isinstance(like, (int, float)) and not isinstance(like, bool):
        whole = isinstance(like, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return "be a whole number" if whole else "be a number"
        if not math.isfinite(value):
            return "be a finite number"
    return "" if limit is None or limit.holds(value) else limit.words


def limited(default, words: str, holds: Callable[[Any], bool]):
    """A field of a value for which `holds` is true; `words` are the limit after "must" in messages ("be even")."""
    return dataclasses.field(default=default, metadata={"limit": Limit(words, holds)})
