"""DIST with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv:2205.10536.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/dist.py --teacher_param runs/cifar100/resnet56

Weight 2 (beta = gamma = 1), temperature 4.

Published top-1 (the paper): ResNet56,ResNet20 71.75; ResNet32x4,ResNet8x4 76.31.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("DIST", pair)
