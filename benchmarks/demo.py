"""The demo: on Digits with 100 labels, a teacher, then students by labels alone, SoftLogits and AT, 3 seeds each.

python -m benchmarks.demo [--root runs/demo]
"""

import argparse
import pathlib

from benchmarks import compare
from configs import digits
from registry import UserError
from training import cli, cpu
from training.run import train

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "SoftLogits": {"distiller": "SoftLogits"},
    "AT": {"distiller": "AT"},
}
SEEDS = (0, 1, 2)


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe = dict(digits.get_config())
    arch = recipe["teacher_arch"]
    print(f"Teacher {arch}, on all labels", flush=True)
    teacher_run = {**recipe, "student_arch": arch, "teacher_arch": "", "transfer": "Labels", "num_labels": 0}
    teacher = train({**teacher_run, "train_path": str(root / "teacher")})
    recipe["teacher_param"] = str(root / "teacher")
    results = compare.run_all(root, recipe, METHODS, SEEDS)
    title = f"Digits, {arch} to {recipe['student_arch']}, 100 labels, {len(SEEDS)} seeds"
    compare.report(root, results, {"arch": arch, "summary": teacher}, title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/demo"))
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        main(arguments.root)
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
