"""WKDLogit with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/wkd_logit.py --teacher_param runs/cifar100/resnet56

gamma 200 and temperature 8; the authors take gamma 200 to 600 and temperatures 6 to 8, by pair.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("WKDLogit", pair)
