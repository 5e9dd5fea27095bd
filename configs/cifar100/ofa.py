"""OFA with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Hao, Guo, Han, Tang, Hu, Wang, Xu, NeurIPS 2023, arXiv:2310.19444.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/ofa.py --teacher_param runs/cifar100/resnet56

gamma 1, the paper's for CIFAR-100. The paper's own setting is another one (300 epochs, cosine, batch 128, between
families).

Published: not in the tables we know.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("OFA", pair)
