"""GradAT with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928, section 3.2.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/grad_at.py --teacher_param runs/cifar100/resnet56

Weight 20.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("GradAT", pair)
