"""AB with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Heo, Lee, Yun, Choi, AAAI 2019, arXiv:1811.03233.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/ab.py --teacher_param runs/cifar100/resnet56

30 epochs on the boundaries come first, then 240 on labels alone.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 72.50; WRN_40_2,WRN_40_1 72.38;
ResNet56,ResNet20 69.47; ResNet110,ResNet20 69.53; ResNet110,ResNet32 70.98; ResNet32x4,ResNet8x4 73.17; VGG13,VGG8
70.94; VGG13,MobileNetV2 66.06; ResNet50,MobileNetV2 67.20; ResNet50,VGG8 70.65; ResNet32x4,ShuffleNetV1 73.55;
ResNet32x4,ShuffleNetV2 74.31; WRN_40_2,ShuffleNetV1 73.34.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """30 and 240 epochs."""
    return recipe("AB", pair)
