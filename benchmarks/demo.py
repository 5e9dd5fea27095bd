"""The demo: on Digits with 100 labels, a teacher, then students by labels alone, SoftLogits and AT, 3 seeds each.

python -m benchmarks.demo [--root runs/demo]
"""

import pathlib

from benchmarks import compare
from configs import digits

METHODS = {
    "Labels alone": {"transfer": "Labels"},
    "SoftLogits": {"distiller": "SoftLogits"},
    "AT": {"distiller": "AT"},
}
SEEDS = (0, 1, 2)


def main(root: pathlib.Path) -> None:
    """Runs what is missing under `root` and prints the table."""
    recipe, teacher = compare.teach(root, dict(digits.get_config()))
    results = compare.run_all(root, recipe, METHODS, SEEDS)
    title = f"Digits, {teacher['arch']} to {recipe['student_arch']}, 100 labels, {len(SEEDS)} seeds"
    compare.report(root, results, teacher, title)


if __name__ == "__main__":
    compare.call(compare.command(__doc__, "runs/demo"), main)
