"""Every method on Digits with 100 labels: ResNet-8x4 to ResNet-8 and to VGG-8, 3 seeds, a leaderboard each.

python -m benchmarks.all_methods [--root runs/methods] [--pairs ResNet8,VGG8] [--only DKD,AT]

Finished runs are kept: the same command continues. The table is in docs/methods.md.
"""

import argparse
import pathlib

import distiller
from benchmarks import leaderboard
from configs import digits
from registry import UserError
from training import cli, cpu
from training.run import train

TEACHER = "ResNet8x4"
STUDENTS = ("ResNet8", "VGG8")
SEEDS = 3
PHASE = 4  # epochs of a first phase here: as large a part of 22 epochs as the benchmark's 30 are of 240
# Ramps inside the training that the papers count in epochs of 240.
OPTIONS = {
    "AB": {"warmup_epochs": PHASE},
    "FSP": {"warmup_epochs": PHASE},
    "FT": {"warmup_epochs": PHASE},
    "DKD": {"warmup_epochs": 2},
    "ReviewKD": {"warmup_epochs": 2},
}


def main(root: pathlib.Path, students: list[str], only: list[str]) -> int:
    """Runs what is missing under `root`; returns the number of methods that failed."""
    recipe = {**digits.get_config(), "teacher_arch": TEACHER, "seeds": SEEDS, "eval_every": 11}
    teacher = root / "teacher"
    train({**recipe, "student_arch": TEACHER, "teacher_arch": "", "transfer": "Labels", "num_labels": 0, "seeds": 1,
           "train_path": str(teacher)})  # fmt: skip
    recipe["teacher_param"] = str(teacher)
    entries = {leaderboard.LABELS: {"transfer": "Labels"}}
    for name in only or distiller.names():
        entries[name] = {"distiller": name, "distiller_options": OPTIONS.get(name, {})}
    failures = 0
    for student in students:
        folder = root / student.lower()
        rows, failed = leaderboard.run(folder, {**recipe, "student_arch": student}, entries)
        title = f"Digits, 100 labels, {TEACHER} to {student}, {SEEDS} seeds"
        leaderboard.write(folder, title, rows, failed)
        failures += len(failed)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/methods"))
    parser.add_argument("--pairs", default=",".join(STUDENTS), help="students, separated by commas")
    parser.add_argument("--only", default="", help="methods, separated by commas; default: all")
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        students, only = arguments.pairs.split(","), [name for name in arguments.only.split(",") if name]
        parser.exit(min(main(arguments.root, students, only), 1))
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
