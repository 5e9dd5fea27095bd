"""CIFAR-10, ResNet-56 to ResNet-32: the recipe of an older JAX distillation cookbook, offline and online.

200 epochs, batch 128, SGD Nesterov 0.1, x0.2 at 30, 60 and 80 %, weight decay 5e-4, reflect-pad-4 crop and flip. The
cookbook reported (single runs) teacher 93.96, student on labels alone 93.15, SoftLogits 93.41, AT 93.74.

    python train_teacher.py --config configs/cifar10.py --train_path runs/teacher
    python train_w_kd.py --config configs/cifar10.py --teacher_param runs/teacher --distiller SoftLogits
    python train_w_kd.py --config configs/cifar10.py --transfer Labels

With `Online` the teacher learns from the labels while it teaches, in the same steps. Its weights are in `teacher/` of
the run folder. The cookbook reported SoftLogits 93.74, AT 93.67. The cookbook's SoftLogits was KL(student || teacher)
times T; here SoftLogits is KL(teacher || student) times T^2.

    python train_w_kd.py --config configs/cifar10.py --transfer Online --distiller SoftLogits

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """200 epochs."""
    c = ConfigDict()
    c.dataset = "CIFAR10"
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
