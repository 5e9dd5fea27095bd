"""MLKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Jin, Wang, Lin, CVPR 2023.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/mlkd.py --teacher_param runs/cifar100/resnet56

The rate is the authors': 0.025; MobileNetV2 0.0025 and ShuffleNets 0.01, both with 480 epochs, the rate falling after
the same 150, 180 and 210. released=True is the loss that the published numbers were made with (distiller/mlkd.py);
False is the paper's.

Published top-1 (README of the LSKD code): ResNet32x4,ResNet8x4 77.08; VGG13,VGG8 75.18; WRN_40_2,WRN_40_1 75.35;
WRN_40_2,WRN_16_2 76.63; ResNet56,ResNet20 72.19; ResNet110,ResNet32 74.11; ResNet110,ResNet20 71.89;
ResNet32x4,ShuffleNetV2 78.44; ResNet32x4,WRN_16_2 76.52; ResNet32x4,WRN_40_2 79.26; WRN_40_2,ResNet8x4 77.33;
WRN_40_2,MobileNetV2 70.78; VGG13,MobileNetV2 70.57; ResNet50,MobileNetV2 71.04.

Published top-1 (README of the LSKD code, standardize=True, weight 9): ResNet32x4,ResNet8x4 78.28; VGG13,VGG8 75.22;
WRN_40_2,WRN_40_1 75.56; WRN_40_2,WRN_16_2 76.95; ResNet56,ResNet20 72.33; ResNet110,ResNet32 74.32; ResNet110,ResNet20
72.27; ResNet32x4,ShuffleNetV2 78.76; ResNet32x4,WRN_16_2 77.53; ResNet32x4,WRN_40_2 79.66; WRN_40_2,ResNet8x4 77.68;
WRN_40_2,MobileNetV2 71.61; VGG13,MobileNetV2 70.94; ResNet50,MobileNetV2 71.19.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, SLOW, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs, or 480."""
    c = recipe("MLKD", pair, released=True)
    c.learning_rate = 0.025
    if c.student_arch in SLOW:
        c.learning_rate = 0.0025 if c.student_arch == "MobileNetV2" else 0.01
        c.train_epoch = 480
        c.milestones = (0.3125, 0.375, 0.4375)
    return c
