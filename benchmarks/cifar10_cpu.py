"""CIFAR-10 on a CPU: a ResNet-20 teacher, then ResNet-8 students by labels, SoftLogits, AT and both, at one budget.

    python -m benchmarks.cifar10_cpu --data_dir DIR [--root runs/cifar10_cpu]

Takes up what is there: stop it at any time and repeat the command. The budget is a fraction of the published recipes'
(which are in configs/): the comparison is fair, the accuracies are not those of full training.
"""

import pathlib

from benchmarks import compare
from configs import cifar10_short

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "SoftLogits": {"distiller": "SoftLogits"},
    "AT": {"distiller": "AT"},
    "SoftLogits+AT": {"distiller": "SoftLogits+AT"},
}


def main(root: pathlib.Path, data_dir: str, teacher_epochs: int, student_epochs: int, seeds: int) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe = {**cifar10_short.get_config(), "data_dir": data_dir}
    recipe, teacher = compare.teach(root, recipe, train_epoch=teacher_epochs)
    results = compare.run_all(root, {**recipe, "train_epoch": student_epochs}, METHODS, range(seeds))
    arch, student = teacher["arch"], recipe["student_arch"]
    title = f"CIFAR-10, {arch} ({teacher_epochs} epochs) to {student} ({student_epochs} epochs), {seeds} seeds"
    compare.report(root, results, teacher, title)


if __name__ == "__main__":
    parser = compare.command(__doc__, "runs/cifar10_cpu")
    parser.add_argument("--data_dir", default="", help="of TensorFlow Datasets; default: its own")
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--student_epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    compare.call(parser, main)
