"""FT with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Kim, Park, Kwak, NeurIPS 2018, arXiv:1802.04977.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/ft.py --teacher_param runs/cifar100/resnet56

Weight 200; 30 epochs of the paraphraser come first. pool_channels=True is RepDistiller's loss, which the published
numbers rest on.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.25; WRN_40_2,WRN_40_1 71.59;
ResNet56,ResNet20 69.84; ResNet110,ResNet20 70.22; ResNet110,ResNet32 72.37; ResNet32x4,ResNet8x4 72.86; VGG13,VGG8
70.58; VGG13,MobileNetV2 61.78; ResNet50,MobileNetV2 60.99; ResNet50,VGG8 70.29; ResNet32x4,ShuffleNetV1 71.75;
ResNet32x4,ShuffleNetV2 72.50; WRN_40_2,ShuffleNetV1 72.03.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """30 and 240 epochs."""
    return recipe("FT", pair, pool_channels=True)
