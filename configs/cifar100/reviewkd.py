"""ReviewKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Chen, Liu, Zhao, Jia, CVPR 2021, arXiv:2104.09044.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/reviewkd.py --teacher_param runs/cifar100/resnet56

The weight is chosen by the pair, as in the authors' script: 0.6 for ResNet56,ResNet20; 1 for ResNet110,ResNet32; 8 for
ResNet32x4,ShuffleNetV2; 5 for its other pairs. Pairs that are not in it take 1.

Published top-1 (Papers with Code, of the paper): ResNet32x4,ResNet8x4 75.63; VGG13,VGG8 74.84.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe

WEIGHT = {"ResNet56,ResNet20": 0.6, "ResNet110,ResNet32": 1.0, "ResNet32x4,ShuffleNetV2": 8.0}
WEIGHT |= dict.fromkeys(("ResNet32x4,ResNet8x4", "ResNet32x4,ShuffleNetV1"), 5.0)
WEIGHT |= dict.fromkeys(("WRN_40_2,WRN_16_2", "WRN_40_2,WRN_40_1", "WRN_40_2,ShuffleNetV1"), 5.0)


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("ReviewKD", pair, weight=WEIGHT.get(pair, 1.0))
