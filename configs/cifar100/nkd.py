"""NKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Yang, Zeng, Li, Zhang, Yuan, Li, ICCV 2023, arXiv:2303.13005.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/nkd.py --teacher_param runs/cifar100/resnet56

Temperature 3, gamma 3.5, the paper's for CIFAR-100.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("NKD", pair)
