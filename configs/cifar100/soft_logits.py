"""SoftLogits with the benchmarks' setting (configs/cifar100/base.py), for any of their pairs.

Paper: Hinton, Vinyals, Dean, NIPS workshop 2014, arXiv:1503.02531.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/soft_logits.py --teacher_param runs/cifar100/resnet56

Weights: 0.1 cross-entropy, 0.9 distillation, temperature 4. LSKD is --config.distiller_options.standardize=True with
weight=9.0 and temperature=2.0 after the same prefix. With DOT as the optimizer: configs/cifar100/dot.py.

Published top-1 (RepDistiller's README, last epoch, mean of runs): WRN_40_2,WRN_16_2 74.92; WRN_40_2,WRN_40_1 73.54;
ResNet56,ResNet20 70.66; ResNet110,ResNet20 70.67; ResNet110,ResNet32 73.08; ResNet32x4,ResNet8x4 73.33; VGG13,VGG8
72.98; VGG13,MobileNetV2 67.37; ResNet50,MobileNetV2 67.35; ResNet50,VGG8 73.81; ResNet32x4,ShuffleNetV1 74.07;
ResNet32x4,ShuffleNetV2 74.45; WRN_40_2,ShuffleNetV1 74.83.

Published top-1 (README of the LSKD code, standardize=True, weight 9, temperature 2 (3 for some pairs)):
ResNet32x4,ResNet8x4 76.62; VGG13,VGG8 74.36; WRN_40_2,WRN_40_1 74.37; WRN_40_2,WRN_16_2 76.11; ResNet56,ResNet20 71.43;
ResNet110,ResNet32 74.17; ResNet110,ResNet20 71.48; ResNet32x4,ShuffleNetV2 75.56; ResNet32x4,WRN_16_2 75.26;
ResNet32x4,WRN_40_2 77.92; WRN_40_2,ResNet8x4 77.11; WRN_40_2,MobileNetV2 69.23; VGG13,MobileNetV2 68.61;
ResNet50,MobileNetV2 69.02.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    return recipe("SoftLogits", pair)
