"""CIFAR-100 as the distillation benchmarks (RepDistiller, mdistiller) train it: any method, any pair of networks.

240 epochs, batch 64, SGD 0.05 without Nesterov (0.01 for MobileNetV2 and the ShuffleNets), x0.1 after epochs 150, 180
and 210, weight decay 5e-4 on everything, zero-pad-4 crop and flip. Without an argument the file is the recipe of
teachers, and of SoftLogits for ResNet56,ResNet20:

    python train_teacher.py --config configs/cifar100.py --arch ResNet32x4 --train_path runs/cifar100/resnet32x4

The argument is METHOD or METHOD,TEACHER,STUDENT. The pair sets the architectures, the student's learning rate, and the
method's options where the benchmarks chose these by the pair:

    python train_w_kd.py --config configs/cifar100.py:DKD,ResNet32x4,ResNet8x4 --teacher_param runs/cifar100/resnet32x4

--teacher_arch and --student_arch change only the architectures. METHOD may be a sum, `SoftLogits+CRD`. `DOT` alone
is SoftLogits with the optimizer DOT; `DOT+DKD` is DKD with DOT (Zhao, Cui, Song, Liang, ICCV 2023, arXiv:2307.08436).
LSKD is `--config.distiller_options.standardize=True` with SoftLogits, DKD or MLKD.

MLKD has its authors' learning rates: 0.0025 for MobileNetV2, 0.01 for the ShuffleNets, 0.025 for other students.
MobileNetV2 and the ShuffleNets train for 480 epochs; their rate also falls after epochs 150, 180 and 210.

`configs/published.py` has the options and the published results, docs/methods.md shows both. Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import published
from registry import UserError

PAIR = "ResNet56,ResNet20"
SLOW = ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")  # students with a learning rate of 0.01
FAMILIES = ("ResNet", "WRN", "VGG")


def get_config(argument: str = "") -> ConfigDict:
    """Returns the benchmark's setting.

    Args:
        argument: "METHOD" or "METHOD,TEACHER,STUDENT"; empty: SoftLogits. Without a pair, the pair is `PAIR`.

    Raises:
        UserError: an argument of another form. Names are checked where the recipe is used.
    """
    method, *archs = [part.strip() for part in (argument or "SoftLogits").split(",")]
    archs = archs or PAIR.split(",")
    if not method or len(archs) != 2 or not all(archs):
        raise UserError(
            f"The argument of configs/cifar100.py is METHOD or METHOD,TEACHER,STUDENT; got '{argument}'.\n"
            f"Example: --config configs/cifar100.py:DKD,{PAIR}"
        )
    parts = [part.strip() for part in method.split("+")]
    dot = "DOT" in parts
    parts = [part for part in parts if part != "DOT"] or ["SoftLogits"]
    c = ConfigDict()
    c.dataset = "CIFAR100"
    c.teacher_arch, c.student_arch = archs
    c.distiller = "+".join(parts)
    options = {part: _options(part, *archs) for part in parts}
    c.distiller_options = {k: v for k, v in options.items() if v} if len(parts) > 1 else options[parts[0]]
    c.train_epoch = 240
    c.batch_size = 64
    c.learning_rate = 0.01 if c.student_arch in SLOW else 0.05
    c.schedule = "step"
    c.milestones = (0.625, 0.75, 0.875)
    c.decay_factor = 0.1
    if dot:
        c.optimizer = "dot"
        c.dot_delta = 0.075
    if "MLKD" in parts:
        c.learning_rate = {"MobileNetV2": 0.0025, "ShuffleNetV1": 0.01, "ShuffleNetV2": 0.01}.get(archs[1], 0.025)
        if c.student_arch in SLOW:
            c.train_epoch = 480
            c.milestones = (0.3125, 0.375, 0.4375)
    return c


def _options(method: str, teacher: str, student: str) -> dict:
    """Returns the benchmarks' options. As in its paper, SDD has a finer scale (its default) across families only."""
    found = published.options(method, f"{teacher},{student}")
    if method == "SDD" and _family(teacher) == _family(student):
        found["scales"] = (1, 2)
    return found


def _family(arch: str) -> str:
    return next((family for family in FAMILIES if arch.startswith(family)), arch)
