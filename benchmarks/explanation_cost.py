"""The cost of a training step with each method on explanation maps, compared with a step with SoftLogits.

    python -m benchmarks.explanation_cost [--teacher ResNet56] [--student ResNet20] [--batch 64] [--rounds 5]

The step is the one that training runs, on random CIFAR-sized images, augmentation included. The methods take turns.
Each ratio is the median over the rounds of the method's time divided by SoftLogits' time in the same round.
"""

import functools

import numpy as np

from benchmarks import step
from benchmarks.our_step import OurStep
from studies import command

METHODS = {
    "SoftLogits": {},
    "CATKD": {},
    "ExpKD": {},
    "LwM": {},
    "E2KD": {},
    "GradAT": {},
    "ExpKD (GradCAM)": {"map": "GradCAM"},
    "ExplanationMatch": {},
    "ExplanationMatch (GradCAM at stage1)": {"map": "GradCAM", "tap": "stage1"},
    "ExplanationMatch (InputGradient)": {"map": "InputGradient"},
}


def main(teacher: str, student: str, batch: int, rounds: int) -> None:
    """Prints the table."""
    sides = {
        name: OurStep(
            *step.split(), batch, teacher=teacher, student=student, method=name.partition(" (")[0], options=options
        )
        for name, options in METHODS.items()
    }
    times = step.in_turns({n: functools.partial(step.milliseconds, side.step) for n, side in sides.items()}, rounds)
    devices = sides["SoftLogits"].devices()
    print(f"\n{teacher} -> {student}, batch {batch}, float32, {devices}, medians of {rounds} rounds")
    for name, ms in times.items():
        print(f"{name:<38}{np.median(ms):>10.1f} ms{np.median(ms / times['SoftLogits']):>8.2f}")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--teacher", default="ResNet56")
    parser.add_argument("--student", default="ResNet20")
    parser.add_argument("--batch", type=command.positive, default=64)
    parser.add_argument("--rounds", type=command.positive, default=5)
    command.call(parser, main)
