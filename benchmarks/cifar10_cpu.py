"""CIFAR-10 on a CPU: a ResNet-20 teacher, then ResNet-8 students by labels, SoftLogits, AT and both, at one budget.

    python -m benchmarks.cifar10_cpu --data_dir DIR [--root runs/cifar10_cpu]

Takes up what is there: stop it at any time and repeat the command. The budget is a fraction of the published recipes'
(which are in configs/): the comparison is fair, the accuracies are not those of full training.
"""

import argparse
import pathlib

from benchmarks import compare
from configs import cifar10_short
from registry import UserError
from training import cli, cpu
from training.run import train

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "SoftLogits": {"distiller": "SoftLogits"},
    "AT": {"distiller": "AT"},
    "SoftLogits+AT": {"distiller": "SoftLogits+AT"},
}


def main(root: pathlib.Path, data_dir: str, teacher_epochs: int, student_epochs: int, seeds: int) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe = {**cifar10_short.get_config(), "data_dir": data_dir}
    arch = recipe["teacher_arch"]
    print(f"Teacher {arch}", flush=True)
    teacher_run = {**recipe, "student_arch": arch, "teacher_arch": "", "transfer": "Labels"}
    teacher = train({**teacher_run, "train_epoch": teacher_epochs, "train_path": str(root / "teacher")})
    recipe.update(teacher_param=str(root / "teacher"), train_epoch=student_epochs)
    results = compare.run_all(root, recipe, METHODS, range(seeds))
    student = recipe["student_arch"]
    title = f"CIFAR-10, {arch} ({teacher_epochs} epochs) to {student} ({student_epochs} epochs), {seeds} seeds"
    compare.report(root, results, {"arch": arch, "summary": teacher}, title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="of TensorFlow Datasets; default: its own")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/cifar10_cpu"))
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--student_epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        main(**vars(arguments))
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
