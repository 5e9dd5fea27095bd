"""Names to constructors: what `create` and `names` mean in every room, and the error a user's mistake raises."""

import difflib
import importlib
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """A mistake that the user can mend: one to three lines that say what is wrong and the fix.

    The command lines print it without a traceback and exit with `exit_code`.
    """

    exit_code = 2


class DamagedFileError(UserError):
    """A file of the project's own that no longer holds what was written."""

    exit_code = 3


class NonFiniteError(UserError):
    """A loss, a gradient or a parameter became NaN or infinite."""

    exit_code = 4


def unknown(kind: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> UserError:
    """The error for a name that nothing has, with the nearest one that something does.

    Args:
        kind: what the names are.
        name: the one that is not known.
        known: those that are.
        elsewhere: name in other libraries or papers, in lower case -> what is said here.
    """
    known, asked = list(known), str(name).lower()
    near = (elsewhere or {}).get(asked)
    if not near:
        folded = {k.lower(): k for k in known}
        near = "".join(f"'{folded[k]}'" for k in difflib.get_close_matches(asked, folded, n=1, cutoff=0.4))
    hint = f" Did you mean {near}?" if near else ""
    return UserError(f"Unknown {kind} '{name}'.{hint}\nKnown: {', '.join(known) or 'none'}.")


class Registry:
    """Maps a name to `"module:attribute"`, imported when first asked for.

    Whoever calls may also give such a `"module:attribute"` instead of a name: their own code, found as `import` does.

    Args:
        kind: what the names are, for messages ("distiller").
        entries: name -> "module:attribute"; the attribute is a class or a function.
        elsewhere: of names that others use, for messages (`unknown`).
    """

    def __init__(self, kind: str, entries: dict[str, str], elsewhere: Mapping[str, str] | None = None):
        self.kind = kind
        self.entries = entries
        self.elsewhere = elsewhere

    def names(self) -> list[str]:
        """All names, in the order of the registry."""
        return list(self.entries)

    def check(self, name: str) -> str:
        """Returns `name`, or raises `UserError` with the nearest known one. Imports nothing but a user's own module."""
        if ":" in name:
            self._own(name)
        elif name not in self.entries:
            raise unknown(self.kind, name, self.entries, self.elsewhere)
        return name

    def get(self, name: str):
        """The class or function behind `name`; `UserError` for an unknown one."""
        if ":" in name:
            return self._own(name)
        module, _, attribute = self.entries[self.check(name)].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _own(self, name: str):
        """What a user's "module:attribute" means."""
        module, _, attribute = name.partition(":")
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(
                f"Cannot import '{module}' for the {self.kind} '{name}': {error}.\n"
                "Start where the module lies, or put its folder on PYTHONPATH."
            ) from None
        if not callable(getattr(found, attribute, None)):
            raise UserError(f"'{module}' has no class or function '{attribute}' for the {self.kind} '{name}'.")
        return getattr(found, attribute)

    def describe(self) -> list[tuple[str, str, str]]:
        """(name, one line, paper or source) per entry, read from the docstrings."""
        return [(name, *summary(self.get(name), name)) for name in self.entries]


def summary(thing, name: str = "") -> tuple[str, str]:
    """First docstring line and the text after `Paper:` (or `Source:`), both on one line, of a class or function."""
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
