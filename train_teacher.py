"""Trains a network on labels alone: a teacher, or the baseline of a table."""

import dataclasses

from configs import command
from configs.default import KEYS
from registry import UserError

FLAGS = {"arch": "the network to train", **command.TRAINING, **command.MACHINE}
FIXED = ("student_arch", "distiller", "transfer", "teacher_arch", "teacher_param", "teacher_dtype", "teacher_views")
FIXED += ("teacher_logits", "teacher_taps", "teacher_input")


def parse(argv: list[str]) -> command.Command:
    """The command line: its recipe, and the flags that are no keys of the recipe."""
    given = command.parse(argv, __doc__, [key for key in KEYS if key not in FIXED], FLAGS)
    for key in given.typed:
        if key in FIXED:
            raise UserError(f"--config.{key} has no meaning here: --arch is what is trained, on labels alone.")
    recipe = {key: value for key, value in given.recipe.items() if key not in (*FIXED, "distiller_options")}
    arch = given.flags["arch"] or given.recipe.get("teacher_arch") or "ResNet20"
    return dataclasses.replace(given, recipe={**recipe, "student_arch": arch, "transfer": "Labels"})


def main(argv: list[str]) -> None:
    """argv -> recipe -> one call."""
    given = parse(argv)
    command.prepare(given)
    from training.train import train

    command.print_summary(train(given.recipe, typed=given.typed))


if __name__ == "__main__":
    command.run(main)
