"""Every method on Digits: one teacher (like ResNet-8x4), two students, 3 seeds, and a leaderboard for each student.

    python -m studies.all_methods [--root runs/methods] [--students ResNet8,VGG8] [--only DKD,AT]

The teacher is ResNet-8x4 at half its widths. The students are ResNet-8 and, from another family, VGG-8 at a quarter of
its widths. All labels are used. The training is short (108 steps of 64 images), so that a teacher can still help. A
method takes its options from `configs/digits.py`, and has its defaults if there are none. Methods for transformers are
left out (`studies/methods_table.py:NETWORKS`). Finished runs are kept: the same command runs only what is missing.
`python -m studies.methods_table --leaderboard ...` takes the tables into docs/methods.md.
"""

import pathlib

import distiller
from configs import digits
from studies import command, compare, leaderboard
from studies.methods_table import NETWORKS

TEACHER = ("ResNet8x4", {"widths": (16, 32, 64, 128)})
STUDENTS = {"ResNet8": {}, "VGG8": {"widths": (16, 32, 64, 128, 128)}}
SEEDS = 3
EPOCHS = 6
PHASE = 1  # epochs of a first phase or of a ramp: 1 of 6 epochs is near the papers' 20 to 40 of 240
RECIPES = {"MLKD": {"learning_rate": 0.025}}  # as published, half the rate of the other methods


def entries(only: list[str], student: str = "ResNet8") -> dict[str, dict]:
    """Returns leaderboard entry -> the config keys that the entry changes: labels alone, then each method.

    SimKD's student is `student` with a projector to the width of the teacher's last map.
    """
    found = {leaderboard.LABELS: {"transfer": "Labels"}}
    for name in only or [name for name in distiller.names() if name not in NETWORKS]:
        fields = distiller.registry.get(name).__dataclass_fields__
        options = digits.tuned(name) | ({"warmup_epochs": PHASE} if "warmup_epochs" in fields else {})
        found[name] = {"distiller": name, "distiller_options": options, **RECIPES.get(name, {})}
    if "SimKD" in found:
        own = {"backbone": student, "backbone_options": STUDENTS.get(student, {}), "width": TEACHER[1]["widths"][-1]}
        found["SimKD"] |= {"student_arch": "Projected", "student_options": own}
        found["SimKD"] |= {"init_head": "teacher", "freeze": "classifier"}
    return found


def main(root: pathlib.Path, students: list[str], only: list[str]) -> int:
    """Runs what is missing under `root`; returns the number of runs that failed."""
    arch, options = TEACHER
    recipe = {**digits.get_config(), "num_labels": 0, "train_epoch": EPOCHS, "seeds": SEEDS, "eval_every": EPOCHS // 2}
    recipe, _ = compare.teach(root, {**recipe, "teacher_arch": arch}, student_options=options, train_epoch=30)
    failures = 0
    for student in students:
        folder = root / student.lower()
        changes = {"student_arch": student, "student_options": STUDENTS.get(student, {})}
        rows, failed = leaderboard.run(folder, {**recipe, **changes}, entries(only, student))
        leaderboard.write(folder, f"Digits, {arch}-like to {student}, {SEEDS} seeds", rows, failed)
        failures += len(failed)
    return failures


if __name__ == "__main__":
    parser = command.parser(__doc__, "runs/methods")
    parser.add_argument("--students", type=command.names, default=list(STUDENTS), help="networks, separated by commas")
    parser.add_argument("--only", type=command.names, default=[], help="methods, separated by commas; default: all")
    command.call(parser, main)
