"""FSP with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Yim, Joo, Bae, Kim, CVPR 2017.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/fsp.py --teacher_param runs/cifar100/resnet56

30 epochs on the flow come first, then 240 on labels alone.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 72.91; ResNet56,ResNet20 69.95;
ResNet110,ResNet20 70.11; ResNet110,ResNet32 71.89; ResNet32x4,ResNet8x4 72.62; VGG13,VGG8 70.23.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """30 and 240 epochs."""
    return recipe("FSP", pair)
