"""LwM with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Dhar, Singh, Peng, Wu, Chellappa, CVPR 2019, arXiv:1811.08051.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/lwm.py --teacher_param runs/cifar100/resnet56

Weight 0.4.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("LwM", pair)
