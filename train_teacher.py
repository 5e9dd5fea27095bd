"""Trains a network on labels alone: a teacher, or the baseline of a table."""

import dataclasses
import sys

from configs import command
from configs.default import KEYS
from registry import UserError

FLAGS = {"arch": "the network to train", **command.TRAINING, **command.MACHINE}
FIXED = ("student_arch", "distiller", "transfer", "teacher_arch", "teacher_param", "teacher_dtype", "teacher_views")
FIXED += ("teacher_image_size", "init_head", "teacher_logits", "teacher_taps", "teacher_input")


def parse(argv: list[str]) -> command.Command:
    """Reads the command line: the keys of the recipe and the other flags."""
    given = command.parse(argv, __doc__, [key for key in KEYS if key not in FIXED], FLAGS)
    for key in given.typed:
        if key in FIXED:
            raise UserError(f"--config.{key} has no meaning here: this program trains --arch on labels alone.")
    recipe = {key: value for key, value in given.recipe.items() if key not in (*FIXED, "distiller_options")}
    arch = given.flags["arch"] or given.recipe.get("teacher_arch") or given.recipe.get("student_arch")
    if not arch and not recipe.get("init_param"):  # weights to start from say what they are of
        arch = "ResNet20"
    named = {"student_arch": arch} if arch else {}
    return dataclasses.replace(given, recipe={**recipe, **named, "transfer": "Labels"})


def main(argv: list[str]) -> None:
    """Reads the recipe from the command line and trains."""
    given = parse(argv)
    if given.flags["compile_for"]:
        from studies import targets

        return targets.main(given)
    command.prepare(given)
    from studies import preflight, tracking
    from training.train import train

    if given.flags["check_only"]:
        sys.exit(preflight.run(given))
    with tracking.followed(given):
        command.print_summary(train(given.recipe, typed=given.typed))


if __name__ == "__main__":
    command.run(main)
