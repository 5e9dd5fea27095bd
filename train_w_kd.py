"""Distils a teacher into a student."""

import importlib
import sys

from configs import command

FLAGS = {**command.TRAINING, **command.MACHINE, "list": f"print the known names and stop: {', '.join(command.LISTS)}"}


def parse(argv: list[str]) -> command.Command:
    """Reads the command line: the keys of the recipe and the other flags."""
    return command.parse(argv, __doc__, more=FLAGS)


def main(argv: list[str]) -> None:
    """Reads the recipe from the command line and trains."""
    given = parse(argv)
    if given.flags["list"]:
        return command.print_list(given.flags["list"])
    if given.flags["compile_for"]:
        return importlib.import_module("studies.targets").main(given)
    command.prepare(given)
    from studies import preflight, tracking
    from training.train import train

    if given.flags["check_only"]:
        sys.exit(preflight.run(given))
    with tracking.followed(given):
        command.print_summary(train(given.recipe, typed=given.typed))


if __name__ == "__main__":
    command.run(main)
