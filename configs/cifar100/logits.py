"""Logits with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Ba, Caruana, NIPS 2014, arXiv:1312.6184.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/logits.py --teacher_param runs/cifar100/resnet56

Weight 0.1.

Published top-1 (Knowledge-Distillation-Zoo's README, with its own setting): ResNet110,ResNet20 69.78.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("Logits", pair)
