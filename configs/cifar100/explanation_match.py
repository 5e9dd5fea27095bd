"""ExplanationMatch with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: none; this library's common form of the methods on explanation maps.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/explanation_match.py --teacher_param runs/cifar100/resnet56

Weight 1.

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("ExplanationMatch", pair)
