"""AT with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/at.py --teacher_param runs/cifar100/resnet56

Weight 1000.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 74.08; WRN_40_2,WRN_40_1 72.77;
ResNet56,ResNet20 70.55; ResNet110,ResNet20 70.22; ResNet110,ResNet32 72.31; ResNet32x4,ResNet8x4 73.44; VGG13,VGG8
71.43; VGG13,MobileNetV2 59.40; ResNet50,MobileNetV2 58.58; ResNet50,VGG8 71.84; ResNet32x4,ShuffleNetV1 71.73;
ResNet32x4,ShuffleNetV2 72.73; WRN_40_2,ShuffleNetV1 73.32.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("AT", pair)
