"""Trains a network on labels alone: a teacher, or the baseline of a table."""

import sys

from registry import UserError
from training import cli

RECIPE = ["arch", *cli.GROUPS["data"], *cli.GROUPS["recipe"], *cli.GROUPS["run"]]

cli.define(*RECIPE)


def main() -> None:
    """Flags to recipe to one call."""
    config = cli.recipe(RECIPE)
    fixed = ("--config.student_arch", "--config.transfer", "--config.teacher_param")
    taken = [argument for argument in sys.argv if argument.startswith(fixed)]
    if taken:
        raise UserError(f"{taken[0]} has no meaning here: --arch is what is trained, on labels alone.")
    config["student_arch"] = config.pop("arch", None) or config.get("teacher_arch") or "ResNet20"
    config.update(transfer="Labels", distiller="", teacher_arch="", teacher_param="")
    cli.begin(config)
    cli.prepare_jax()
    from training.run import train

    cli.print_summary(train(config))


if __name__ == "__main__":
    cli.main(main, __doc__)
