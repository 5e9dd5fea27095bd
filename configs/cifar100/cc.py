"""CC with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang, ICCV 2019, arXiv:1904.01802.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/cc.py --teacher_param runs/cifar100/resnet56

Weight 0.02, both embeddings projected to 128 numbers, as in RepDistiller.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 73.56; WRN_40_2,WRN_40_1 72.21;
ResNet56,ResNet20 69.63; ResNet110,ResNet20 69.48; ResNet110,ResNet32 71.48; ResNet32x4,ResNet8x4 72.97; VGG13,VGG8
70.71; VGG13,MobileNetV2 64.86; ResNet50,MobileNetV2 65.43; ResNet50,VGG8 70.25; ResNet32x4,ShuffleNetV1 71.14;
ResNet32x4,ShuffleNetV2 71.29; WRN_40_2,ShuffleNetV1 71.38.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("CC", pair, project_to=128)
