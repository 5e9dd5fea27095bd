"""The demo on Digits with 100 labels: a teacher, then students with labels alone, SoftLogits and AT, 3 seeds each.

python -m studies.demo [--root runs/demo]
"""

import os
import pathlib
import sys

from configs import digits
from studies import command, compare, report

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    **{name: {"distiller": name, "distiller_options": digits.tuned(name)} for name in ("SoftLogits", "AT")},
}
SEEDS = 3
NEXT = "train_w_kd.py --distiller SoftLogits+AT --transfer Offline --num_labels 100"


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root`, prints the table and a command to try next, and writes a report page."""
    recipe, teacher = compare.teach(root, {**digits.get_config(), "seeds": SEEDS})
    rows = compare.run_all(root, recipe, METHODS)
    compare.report(root, teacher, rows, recipe, f"Digits, ResNet20 to ResNet8, 100 labels, {SEEDS} seeds")
    report.main([*(root / compare.folder_name(name) for name in METHODS), root / "teacher"], root / "report")
    python = os.path.relpath(sys.executable)
    print(f"Next: {python if not python.startswith('..') else 'python'} {NEXT}   (all methods: --list distillers)")


if __name__ == "__main__":
    command.call(command.parser(__doc__, "runs/demo"), main)
