"""The command lines of studies and benchmarks: `python -m studies.NAME`, `python -m benchmarks.NAME`."""

import argparse
import pathlib

from registry import UserError


def parser(doc: str, root: str = "") -> argparse.ArgumentParser:
    """Makes a parser whose help is the module's docstring.

    Args:
        doc: `__doc__` of the module.
        root: default of `--root`, the folder of a study's runs. If empty, the command has no `--root`.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if root:
        made.add_argument("--root", type=pathlib.Path, default=pathlib.Path(root), help=f"runs folder; default: {root}")
    return made


def positive(text: str) -> int:
    """Reads a whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def names(text: str) -> list[str]:
    """Reads names, separated by commas."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Reads one or more whole numbers, separated by commas, each 1 or more."""
    found = [positive(name) for name in names(text)]
    if not found:
        raise argparse.ArgumentTypeError("give at least one number")
    return found


def prepare() -> None:
    """Tunes the process for a CPU, before JAX starts, and keeps compiled programs in the user's cache folder."""
    from configs import command  # not at the top: the benchmarks' PyTorch processes import this module, too

    command.tune()


def call(made: argparse.ArgumentParser, main, rest: str = "") -> None:
    """Calls `main` with the command line's values and ends the process.

    If `rest` is a name, the arguments that `made` does not know are `main`'s argument of this name.
    The exit code is 1 if `main` returns a number of failures above 0. A `UserError` prints one message and ends with
    its own exit code.
    """
    arguments, unknown = made.parse_known_args()
    if unknown and not rest:
        made.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        prepare()
        made.exit(min(main(**vars(arguments), **({rest: unknown} if rest else {})) or 0, 1))
    except UserError as error:
        made.exit(error.exit_code, f"Error: {error}\n")
