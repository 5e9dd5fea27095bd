"""RKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/rkd.py --teacher_param runs/cifar100/resnet56

Weights 25 (distances) and 50 (angles).

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.35; WRN_40_2,WRN_40_1 72.22;
ResNet56,ResNet20 69.61; ResNet110,ResNet20 69.25; ResNet110,ResNet32 71.82; ResNet32x4,ResNet8x4 71.90; VGG13,VGG8
71.48; VGG13,MobileNetV2 64.52; ResNet50,MobileNetV2 64.43; ResNet50,VGG8 71.50; ResNet32x4,ShuffleNetV1 72.28;
ResNet32x4,ShuffleNetV2 73.21; WRN_40_2,ShuffleNetV1 72.21.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("RKD", pair)
