"""CRD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/crd.py --teacher_param runs/cifar100/resnet56

Weight 0.8, 16384 negatives, temperature 0.07. Together with SoftLogits (RepDistiller's CRD+KD): --distiller
SoftLogits+CRD and the options of either by name.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 75.48; WRN_40_2,WRN_40_1 74.14;
ResNet56,ResNet20 71.16; ResNet110,ResNet20 71.46; ResNet110,ResNet32 73.48; ResNet32x4,ResNet8x4 75.51; VGG13,VGG8
73.94; VGG13,MobileNetV2 69.73; ResNet50,MobileNetV2 69.11; ResNet50,VGG8 74.30; ResNet32x4,ShuffleNetV1 75.11;
ResNet32x4,ShuffleNetV2 75.65; WRN_40_2,ShuffleNetV1 76.05.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("CRD", pair)
