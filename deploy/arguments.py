"""Command lines of this room: arguments beside flags, and errors in two lines."""

import argparse

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
