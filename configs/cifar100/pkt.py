"""PKT with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Passalis, Tefas, ECCV 2018, arXiv:1803.10837.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/pkt.py --teacher_param runs/cifar100/resnet56

Weight 30000.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 74.54; WRN_40_2,WRN_40_1 73.45;
ResNet56,ResNet20 70.34; ResNet110,ResNet20 70.25; ResNet110,ResNet32 72.61; ResNet32x4,ResNet8x4 73.64; VGG13,VGG8
72.88; VGG13,MobileNetV2 67.13; ResNet50,MobileNetV2 66.52; ResNet50,VGG8 73.01; ResNet32x4,ShuffleNetV1 74.10;
ResNet32x4,ShuffleNetV2 74.69; WRN_40_2,ShuffleNetV1 73.89.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("PKT", pair)
