"""Registries, which map names to constructors, and the errors for users' mistakes."""

import difflib
import importlib
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """A mistake that the user can correct. The message has one to three lines: what is wrong, and the fix.

    The command lines print it without a traceback and exit with `exit_code`.
    """

    exit_code = 2


class DamagedFileError(UserError):
    """A damaged file: its content is not what was written."""

    exit_code = 3


class NonFiniteError(UserError):
    """A loss, a gradient or a parameter became NaN or infinite."""

    exit_code = 4


def unknown(kind: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> UserError:
    """Returns the error for an unknown name, with the nearest known name.

    Args:
        kind: what the names stand for, such as "distiller".
        name: the unknown name.
        known: the known names.
        elsewhere: name in other libraries or papers, in lower case -> the text after "Did you mean".
    """
    known, asked = list(known), str(name).lower()
    near = (elsewhere or {}).get(asked)
    if not near:
        folded = {k.lower(): k for k in known}
        near = "".join(f"'{folded[k]}'" for k in difflib.get_close_matches(asked, folded, n=1, cutoff=0.4))
    hint = f" Did you mean {near}?" if near else ""
    return UserError(f"Unknown {kind} '{name}'.{hint}\nKnown: {', '.join(known) or 'none'}.")


class Registry:
    """Maps a name to `"module:attribute"`. The module is imported when the name is first looked up.

    A caller may also give a `"module:attribute"` of their own instead of a name. Python's import finds the module.

    Args:
        kind: what the names stand for, for messages ("distiller").
        entries: name -> "module:attribute"; the attribute is a class or a function.
        elsewhere: names in other libraries or papers, for messages (`unknown`).
    """

    def __init__(self, kind: str, entries: dict[str, str], elsewhere: Mapping[str, str] | None = None):
        self.kind = kind
        self.entries = entries
        self.elsewhere = elsewhere

    def names(self) -> list[str]:
        """Returns all names, in the order of the registry."""
        return list(self.entries)

    def check(self, name: str) -> str:
        """Returns `name`; raises `UserError` for an unknown name. Imports only a user's own module."""
        if ":" in name:
            self._own(name)
        elif name not in self.entries:
            raise unknown(self.kind, name, self.entries, self.elsewhere)
        return name

    def get(self, name: str):
        """Returns the class or function of `name`; raises `UserError` for an unknown name."""
        if ":" in name:
            return self._own(name)
        module, _, attribute = self.entries[self.check(name)].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _own(self, name: str):
        """Imports a user's "module:attribute" and returns the class or function."""
        module, _, attribute = name.partition(":")
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(
                f"Cannot import '{module}' for the {self.kind} '{name}': {error}.\n"
                "Start in the module's folder, or add that folder to PYTHONPATH."
            ) from None
        if not callable(getattr(found, attribute, None)):
            raise UserError(f"'{module}' has no class or function '{attribute}' for the {self.kind} '{name}'.")
        return getattr(found, attribute)

    def describe(self) -> list[tuple[str, str, str]]:
        """Returns (name, summary line, paper or source) of each entry, from the docstrings."""
        return [(name, *summary(self.get(name), name)) for name in self.entries]


def summary(thing, name: str = "") -> tuple[str, str]:
    """Returns the first line of a docstring, and the text after `Paper:` or `Source:` as one line."""
    lines = (thing.__doc__ or "").strip().splitlines() or [""]
    source = ""
    for i, line in enumerate(lines):
        if line.strip().startswith(("Paper:", "Source:")):
            paragraph = []
            for following in lines[i:]:
                if not following.strip():
                    break
                paragraph.append(following.strip())
            source = " ".join(paragraph).partition(":")[2].strip()
            break
    return lines[0].strip(), source
