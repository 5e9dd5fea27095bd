"""ExpKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: none known here; what the code published as Exp-KD means (it gives no gradient, see the file).

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/exp_kd.py --teacher_param runs/cifar100/resnet56

Weight 1.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("ExpKD", pair)
