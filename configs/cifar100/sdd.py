"""SDD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Wei, Luo, Luo, CVPR 2024, arXiv:2403.13512.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/sdd.py --teacher_param runs/cifar100/resnet56

By the pair: beta as DKD's; scales (1, 2) within a family and (1, 2, 4) across families, as the paper does.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100 import dkd
from configs.cifar100.base import PAIR, recipe

FAMILIES = ("ResNet", "WRN", "VGG")


def _family(arch: str) -> str:
    return next((family for family in FAMILIES if arch.startswith(family)), arch)


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    teacher, _, student = pair.partition(",")
    scales = (1, 2) if _family(teacher) == _family(student) else (1, 2, 4)
    return recipe("SDD", pair, beta=dkd.BETA.get(pair, 8.0), scales=scales)
