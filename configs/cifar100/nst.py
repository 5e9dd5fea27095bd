"""NST with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Huang, Wang, 2017, arXiv:1707.01219.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/nst.py --teacher_param runs/cifar100/resnet56

Weight 50.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.68; WRN_40_2,WRN_40_1 72.24;
ResNet56,ResNet20 69.60; ResNet110,ResNet20 69.53; ResNet110,ResNet32 71.96; ResNet32x4,ResNet8x4 73.30; VGG13,VGG8
71.53; VGG13,MobileNetV2 58.16; ResNet50,MobileNetV2 64.96; ResNet50,VGG8 71.28; ResNet32x4,ShuffleNetV1 74.12;
ResNet32x4,ShuffleNetV2 74.68; WRN_40_2,ShuffleNetV1 74.89.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("NST", pair)
