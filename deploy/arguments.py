"""Command lines of this room: arguments beside flags, and errors in two lines."""

import argparse
import os
import pathlib

from registry import UserError


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors as `UserError`, so that `configs.command.run` prints them.

    Args:
        program: the command's module, such as "deploy.predict".
        text: for `--help`, the module's docstring.
    """

    def __init__(self, program: str, text: str):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m {program}", description=text, formatter_class=form, allow_abbrev=False)
        self.add_argument("--param", required=True, help="a run folder, a folder of weights, or hf:OWNER/NAME")
        self.add_argument("--arch", default="", help="the network, if its code is your own: module:attribute")

    def error(self, message: str):
        raise UserError(f"{message[:1].upper()}{message[1:]}.\nThe flags: {self.prog} --help")


def file_to_write(flag: str, text: str) -> pathlib.Path:
    """The path of a file that will be written; its folder may be missing.

    Raises:
        UserError: the path is a folder, or nothing can be written there.
    """
    path = pathlib.Path(text).expanduser()
    if not path.name or path.is_dir():
        raise UserError(f"{flag} '{text}' is a folder: give the name of a file.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{flag} {path}: nothing can be written in {above}. Choose another place.")
    return path
