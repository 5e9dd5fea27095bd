"""What fixed views cost: the teacher bank with K views of every image against fresh views, 3 seeds each.

    python -m benchmarks.teacher_bank [--root runs/teacher_bank]

The setting of the demo (`configs/digits.py`: 100 labels, ResNet-20 to ResNet-8, SoftLogits, 22 epochs) with a random
crop of one pixel of padding, 9 different views of an image: without augmentation all views are the same and a bank
costs nothing. Resumes where it was stopped.
"""

import pathlib

from benchmarks import compare
from configs import digits

VIEWS = (1, 2, 4, 8)
METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "Fresh views": {"distiller": "SoftLogits"},
    **{f"Bank of {k}": {"distiller": "SoftLogits", "teacher_views": k} for k in VIEWS},
}
SEEDS = (0, 1, 2)


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe, teacher = compare.teach(root, {**digits.get_config(), "crop_pad": 1})
    results = compare.run_all(root, recipe, METHODS, SEEDS)
    title = f"Digits with crops, {teacher['arch']} to {recipe['student_arch']}, 100 labels, {len(SEEDS)} seeds"
    compare.report(root, results, teacher, title)


if __name__ == "__main__":
    compare.call(compare.command(__doc__, "runs/teacher_bank"), main)
