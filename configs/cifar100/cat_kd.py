"""CATKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Guo, Yan, Li, Lin, CVPR 2023, arXiv:2304.12777.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/cat_kd.py --teacher_param runs/cifar100/resnet56

Weight 400 with normalised maps; for ResNet56,ResNet20 weight 0.7 with raw maps, as its code has them.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    raw = {"normalize": False, "weight": 0.7} if pair == PAIR else {}
    return recipe("CATKD", pair, **raw)
