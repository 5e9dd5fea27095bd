"""The accuracy cost of a teacher bank: teacher's logits on K fixed views of every image, against fresh views, 3 seeds.

    python -m studies.teacher_bank [--root runs/teacher_bank]

The setting is the demo's (configs/digits.py) with SoftLogits and a random crop with one pixel of padding, which gives 9
different views of an image. Without augmentation all views are the same, and a bank costs nothing. Finished runs are
kept: the same command runs only what is missing.
"""

import pathlib

from configs import digits
from studies import command, compare

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "Fresh views": {"distiller": "SoftLogits"},
    **{f"Bank of {k}": {"distiller": "SoftLogits", "teacher_views": k} for k in (1, 2, 4, 8)},
}
SEEDS = 3


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe, teacher = compare.teach(root, {**digits.get_config(), "crop_pad": 1, "seeds": SEEDS})
    rows = compare.run_all(root, recipe, METHODS)
    title = f"Digits with crops, ResNet20 to ResNet8, 100 labels, {SEEDS} seeds"
    compare.report(root, teacher, rows, recipe, title)


if __name__ == "__main__":
    command.call(command.parser(__doc__, "runs/teacher_bank"), main)
