"""CIFAR-10 on a CPU: a ResNet-20 teacher, then ResNet-8 students with labels alone, SoftLogits, AT and both methods.

    python -m studies.cifar10_cpu --data_dir DIR [--root runs/cifar10_cpu]

All students have the same budget. The budget is a fraction of the published recipes' (configs/), so compare the rows
with each other, not with published numbers. Finished runs are kept: the same command runs only what is missing.
"""

import pathlib

from configs import cifar10_short
from studies import command, compare

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    **{name: {"distiller": name} for name in ("SoftLogits", "AT", "SoftLogits+AT")},
}


def main(root: pathlib.Path, data_dir: str, teacher_epochs: int, student_epochs: int, seeds: int) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe = {**cifar10_short.get_config(), "data_dir": data_dir, "seeds": seeds}
    recipe, teacher = compare.teach(root, recipe, train_epoch=teacher_epochs)
    rows = compare.run_all(root, {**recipe, "train_epoch": student_epochs}, METHODS)
    title = f"CIFAR-10, ResNet20 ({teacher_epochs} epochs) to ResNet8 ({student_epochs} epochs), {seeds} seeds"
    compare.report(root, teacher, rows, recipe, title)


if __name__ == "__main__":
    parser = command.parser(__doc__, "runs/cifar10_cpu")
    parser.add_argument("--data_dir", default="", help="folder of TensorFlow Datasets; default: its own")
    parser.add_argument("--teacher_epochs", type=command.positive, default=20)
    parser.add_argument("--student_epochs", type=command.positive, default=6)
    parser.add_argument("--seeds", type=command.positive, default=2)
    command.call(parser, main)
