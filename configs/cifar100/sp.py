"""SP with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Tung, Mori, ICCV 2019, arXiv:1907.09682.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/sp.py --teacher_param runs/cifar100/resnet56

Weight 3000.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.83; WRN_40_2,WRN_40_1 72.43;
ResNet56,ResNet20 69.67; ResNet110,ResNet20 70.04; ResNet110,ResNet32 72.69; ResNet32x4,ResNet8x4 72.94; VGG13,VGG8
72.68; VGG13,MobileNetV2 66.30; ResNet50,MobileNetV2 68.08; ResNet50,VGG8 73.34; ResNet32x4,ShuffleNetV1 73.48;
ResNet32x4,ShuffleNetV2 74.56; WRN_40_2,ShuffleNetV1 74.52.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("SP", pair)
