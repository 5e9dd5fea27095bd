"""What fixed views cost: the teacher bank with K views of every image against fresh views, 3 seeds each.

    python -m benchmarks.teacher_bank [--root runs/teacher_bank]

The setting of the demo (`configs/digits.py`: 100 labels, ResNet-20 to ResNet-8, SoftLogits, 22 epochs) with a random
crop of one pixel of padding, 9 different views of an image: without augmentation all views are the same and a bank
costs nothing. Resumes where it was stopped.
"""

import argparse
import pathlib

from benchmarks import compare
from configs import digits
from registry import UserError
from training import cli, cpu
from training.run import train

VIEWS = (1, 2, 4, 8)
METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "Fresh views": {"distiller": "SoftLogits"},
    **{f"Bank of {k}": {"distiller": "SoftLogits", "teacher_views": k} for k in VIEWS},
}
SEEDS = (0, 1, 2)


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe = {**digits.get_config(), "crop_pad": 1}
    arch = recipe["teacher_arch"]
    print(f"Teacher {arch}, on all labels", flush=True)
    teacher_run = {**recipe, "student_arch": arch, "teacher_arch": "", "transfer": "Labels", "num_labels": 0}
    teacher = train({**teacher_run, "train_path": str(root / "teacher")})
    recipe["teacher_param"] = str(root / "teacher")
    results = compare.run_all(root, recipe, METHODS, SEEDS)
    title = f"Digits with crops, {arch} to {recipe['student_arch']}, 100 labels, {len(SEEDS)} seeds"
    compare.report(root, results, {"arch": arch, "summary": teacher}, title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/teacher_bank"))
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        main(arguments.root)
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
