"""CTKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023, arXiv:2211.16231.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/ctkd.py --teacher_param runs/cifar100/resnet56

T = 1 + 20 sigmoid(theta), the reversal at full strength after 10 epochs.

Published top-1 (README of the LSKD code): ResNet32x4,ResNet8x4 73.39; VGG13,VGG8 73.52; WRN_40_2,WRN_40_1 73.93;
WRN_40_2,WRN_16_2 75.45; ResNet56,ResNet20 71.19; ResNet110,ResNet32 73.52; ResNet110,ResNet20 70.99;
ResNet32x4,ShuffleNetV2 75.37; ResNet32x4,WRN_16_2 74.57; ResNet32x4,WRN_40_2 77.66; WRN_40_2,ResNet8x4 74.61;
WRN_40_2,MobileNetV2 68.34; VGG13,MobileNetV2 68.50; ResNet50,MobileNetV2 68.67.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("CTKD", pair)
