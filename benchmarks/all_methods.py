"""Every method on Digits with 100 labels, from a ResNet-8x4-like teacher to two students, 3 seeds, a leaderboard each.

python -m benchmarks.all_methods [--root runs/methods] [--students ResNet8,VGG8] [--only DKD,AT]

The teacher is ResNet-8x4 at half its widths; the students are ResNet-8 and, of another family, VGG-8 at a quarter of
its widths; 216 steps of 64. Finished runs are kept: the same command continues. The tables are in docs/methods.md.
"""

import argparse
import pathlib

import distiller
from benchmarks import leaderboard
from configs import digits
from registry import UserError
from training import cli, cpu
from training.run import train

TEACHER = ("ResNet8x4", {"widths": (16, 32, 64, 128)})
STUDENTS = {"ResNet8": {}, "VGG8": {"widths": (16, 32, 64, 128, 128)}}
SEEDS = 3
EPOCHS = 12
PHASE = 2  # epochs of a first phase or of a ramp here: about as large a part of 12 as the papers' is of 240
OPTIONS = {name: {"warmup_epochs": PHASE} for name in ("AB", "FSP", "FT", "DKD", "SDD", "ReviewKD", "OFA")}


def entries(only: list[str]) -> dict[str, dict]:
    """Leaderboard entry -> the config keys it changes: labels alone, then each method with its published weights."""
    found = {leaderboard.LABELS: {"transfer": "Labels"}}
    for name in only or distiller.names():
        fields = distiller.registry.get(name).__dataclass_fields__
        options = {key: value for key, value in OPTIONS.get(name, {}).items() if key in fields}
        found[name] = {"distiller": name, "distiller_options": options}
    return found


def main(root: pathlib.Path, students: list[str], only: list[str]) -> int:
    """Runs what is missing under `root`; returns the number of runs that failed."""
    arch, options = TEACHER
    recipe = {**digits.get_config(), "train_epoch": EPOCHS, "seeds": SEEDS, "eval_every": EPOCHS // 2}
    alone = {"student_arch": arch, "student_options": options, "teacher_arch": "", "transfer": "Labels"}
    train({**recipe, **alone, "num_labels": 0, "seeds": 1, "train_path": str(root / "teacher")})
    recipe |= {"teacher_arch": arch, "teacher_param": str(root / "teacher")}
    failures = 0
    for student in students:
        folder = root / student.lower()
        changes = {"student_arch": student, "student_options": STUDENTS.get(student, {})}
        rows, failed = leaderboard.run(folder, {**recipe, **changes}, entries(only))
        leaderboard.write(folder, f"Digits, 100 labels, {arch}-like to {student}, {SEEDS} seeds", rows, failed)
        failures += len(failed)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/methods"))
    parser.add_argument("--students", default=",".join(STUDENTS), help="networks, separated by commas")
    parser.add_argument("--only", default="", help="methods, separated by commas; default: all")
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        students, only = arguments.students.split(","), [name for name in arguments.only.split(",") if name]
        parser.exit(min(main(arguments.root, students, only), 1))
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
