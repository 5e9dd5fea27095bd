"""DKD with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv:2203.08679.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/dkd.py --teacher_param runs/cifar100/resnet56

beta is chosen by the pair, as in mdistiller: 2 for ResNet56,ResNet20 and ResNet110,ResNet32; 6 from VGG13 and between
WRNs; 8 else. LSKD is --config.distiller_options.standardize=True; distiller/dkd.py has its weights.

Published top-1 (mdistiller's README, best epoch): ResNet56,ResNet20 71.97; ResNet110,ResNet32 74.11;
ResNet32x4,ResNet8x4 76.32; WRN_40_2,WRN_16_2 76.23; WRN_40_2,WRN_40_1 74.81; VGG13,VGG8 74.68; ResNet32x4,ShuffleNetV1
76.45; WRN_40_2,ShuffleNetV1 76.70; VGG13,MobileNetV2 69.71; ResNet50,MobileNetV2 70.35; ResNet32x4,ShuffleNetV2 77.07.

Published top-1 (README of the LSKD code, standardize=True): ResNet32x4,ResNet8x4 77.01; VGG13,VGG8 74.81;
WRN_40_2,WRN_40_1 74.89; WRN_40_2,WRN_16_2 76.39; ResNet56,ResNet20 72.32; ResNet110,ResNet32 74.29; ResNet110,ResNet20
71.85; ResNet32x4,ShuffleNetV2 77.37; ResNet32x4,WRN_16_2 76.19; ResNet32x4,WRN_40_2 78.95; WRN_40_2,ResNet8x4 76.75;
WRN_40_2,MobileNetV2 70.01; VGG13,MobileNetV2 69.98; ResNet50,MobileNetV2 70.45.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe

BETA = {"ResNet56,ResNet20": 2.0, "ResNet110,ResNet32": 2.0}
BETA |= dict.fromkeys(("VGG13,VGG8", "VGG13,MobileNetV2", "WRN_40_2,WRN_16_2", "WRN_40_2,WRN_40_1"), 6.0)


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("DKD", pair, beta=BETA.get(pair, 8.0))
