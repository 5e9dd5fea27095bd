"""FitNet with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio, ICLR 2015, arXiv:1412.6550.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/fitnet.py --teacher_param runs/cifar100/resnet56

Weight 100, the hint is the second stage.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.58; WRN_40_2,WRN_40_1 72.24;
ResNet56,ResNet20 69.21; ResNet110,ResNet20 68.99; ResNet110,ResNet32 71.06; ResNet32x4,ResNet8x4 73.50; VGG13,VGG8
71.02; VGG13,MobileNetV2 64.14; ResNet50,MobileNetV2 63.16; ResNet50,VGG8 70.69; ResNet32x4,ShuffleNetV1 73.59;
ResNet32x4,ShuffleNetV2 73.54; WRN_40_2,ShuffleNetV1 73.73.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("FitNet", pair)
