"""DOT: SoftLogits under the optimizer that gives the distillation loss more momentum than the label loss.

Paper: Zhao, Cui, Song, Liang, ICCV 2023, arXiv:2307.08436.

    python train_teacher.py --config configs/cifar100/base.py --arch ResNet56 --train_path runs/cifar100/resnet56
    python train_w_kd.py --config configs/cifar100/dot.py --teacher_param runs/cifar100/resnet56

SoftLogits with configs/cifar100/soft_logits.py's weights, momentum 0.9 - 0.075 for the label loss and 0.9 + 0.075 for
the distillation loss. --distiller takes any method that has both losses.

Published top-1 (mdistiller's README, best epoch): ResNet32x4,ResNet8x4 75.12; VGG13,VGG8 73.77; ResNet32x4,ShuffleNetV2
75.55.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs.cifar100.base import PAIR, recipe


def get_config(pair: str = PAIR) -> ConfigDict:
    """240 epochs."""
    c = recipe("SoftLogits", pair)
    c.optimizer = "dot"
    c.dot_delta = 0.075
    return c
