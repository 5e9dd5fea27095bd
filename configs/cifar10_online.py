"""CIFAR-10, ResNet-56 to ResNet-32 online: the one-way runs of an older JAX distillation cookbook.

The teacher learns from the labels while it teaches, in the same steps. 200 epochs, batch 128, SGD Nesterov 0.1, x0.2 at
30, 60 and 80 %, weight decay 5e-4, reflect-pad-4 crop and flip. It reported SoftLogits 93.74, AT 93.67 (single runs).

    python train_w_kd.py --config configs/cifar10_online.py --distiller SoftLogits
    python train_w_kd.py --config configs/cifar10_online.py --distiller AT
    python train_w_kd.py --config configs/cifar10_online.py --transfer Labels

Its SoftLogits was KL(student || teacher) times T; here it is KL(teacher || student) times T^2. The third command is the
student of the same budget on labels alone. The run folder has the teacher too, in `teacher/`.

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """200 epochs."""
    c = ConfigDict()
    c.dataset = "CIFAR10"
    c.transfer = "Online"
    c.teacher_arch = "ResNet56"
    c.student_arch = "ResNet32"
    c.train_epoch = 200
    c.batch_size = 128
    c.learning_rate = 0.1
    c.nesterov = True
    c.weight_decay = 5e-4
    c.schedule = "step"
    c.milestones = (0.3, 0.6, 0.8)
    c.decay_factor = 0.2
    c.crop_mode = "reflect"
    return c
