"""VID with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, arXiv:1904.05835.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/vid.py --teacher_param runs/cifar100/resnet56

Weight 1.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 74.11; WRN_40_2,WRN_40_1 73.30;
ResNet56,ResNet20 70.38; ResNet110,ResNet20 70.16; ResNet110,ResNet32 72.61; ResNet32x4,ResNet8x4 73.09; VGG13,VGG8
71.23; VGG13,MobileNetV2 65.56; ResNet50,MobileNetV2 67.57; ResNet50,VGG8 70.30; ResNet32x4,ShuffleNetV1 73.38;
ResNet32x4,ShuffleNetV2 73.40; WRN_40_2,ShuffleNetV1 73.61.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("VID", pair)
