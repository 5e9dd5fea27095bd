"""CIFAR-100 as the distillation benchmarks (RepDistiller, mdistiller) train it: what the recipes of this folder share.

240 epochs, batch 64, SGD 0.05 (0.01 for MobileNetV2 and ShuffleNets; no Nesterov), x0.1 after epochs 150, 180 and 210,
weight decay 5e-4 on everything, zero-pad-4 crop and flip. By itself this file is the recipe of the teachers and of the
students without one:

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/dkd.py --teacher_param runs/cifar100/resnet56

A recipe takes the pair as its argument, and with it the architectures, the student's rate and what the method's weights
are for this pair:

    python train_w_kd.py --config configs/cifar100/dkd.py:ResNet32x4,ResNet8x4 --teacher_param runs/cifar100/resnet32x4

--teacher_arch and --student_arch change the architectures alone; rate and weights are then those of ResNet56,ResNet20.

Published top-1 on labels alone (RepDistiller's README, last epoch): ResNet20 69.06, ResNet32 71.14, ResNet56 72.34,
ResNet110 74.31, ResNet8x4 72.50, ResNet32x4 79.42, WRN_16_2 73.26, WRN_40_1 71.98, WRN_40_2 75.61, VGG8 70.36,
VGG13 74.64, ResNet50 79.34, MobileNetV2 64.60, ShuffleNetV1 70.50, ShuffleNetV2 71.82.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from registry import UserError

PAIR = "ResNet56,ResNet20"
SLOW = ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")  # students with a rate of 0.01


def recipe(distiller: str, pair: str = PAIR, **options) -> ConfigDict:
    """The benchmark's setting for one method and pair.

    Args:
        distiller: the method.
        pair: "TEACHER,STUDENT".
        **options: the method's.

    Raises:
        UserError: not a pair.
    """
    archs = pair.split(",")
    if len(archs) != 2 or not all(archs):
        raise UserError(f"A pair is TEACHER,STUDENT, such as {PAIR}; got '{pair}'.")
    c = ConfigDict()
    c.dataset = "CIFAR100"
    c.teacher_arch, c.student_arch = archs
    c.distiller = distiller
    c.distiller_options = options
    c.train_epoch = 240
    c.batch_size = 64
    c.learning_rate = 0.01 if c.student_arch in SLOW else 0.05
    c.schedule = "step"
    c.milestones = (0.625, 0.75, 0.875)
    c.decay_factor = 0.1
    return c


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs, with SoftLogits where a teacher is given."""
    return recipe("SoftLogits", pair)
