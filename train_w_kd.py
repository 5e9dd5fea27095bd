"""Distils a teacher into a student."""

import importlib

from configs import command
from registry import unknown

LISTS = {"distillers": "distiller", "transfers": "transfer", "models": "models", "datasets": "data"}
FLAGS = {**command.TRAINING, **command.MACHINE, "list": f"print what there is and stop: {', '.join(LISTS)}"}


def parse(argv: list[str]) -> command.Command:
    """The command line: its recipe, and the flags that are no keys of the recipe."""
    return command.parse(argv, __doc__, more=FLAGS)


def main(argv: list[str]) -> None:
    """argv -> recipe -> one call."""
    given = parse(argv)
    if given.flags["list"]:
        return print_list(given.flags["list"])
    command.prepare(given)
    from training.train import train

    command.print_summary(train(given.recipe, typed=given.typed))


def print_list(what: str) -> None:
    """Prints name, one line and paper of everything in a registry."""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    for name, line, source in importlib.import_module(LISTS[what]).registry.describe():
        print(f"{name:<14} {line}" + (f"  [{source}]" if source else ""))


if __name__ == "__main__":
    command.run(main)
