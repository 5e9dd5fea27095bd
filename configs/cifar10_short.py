"""CIFAR-10 in a short time on a CPU: ResNet-20 to ResNet-8, a few epochs, cosine schedule.

    python train_teacher.py --config configs/cifar10_short.py --train_epoch 20 --train_path runs/teacher
    python train_w_kd.py --config configs/cifar10_short.py --teacher_param runs/teacher --distiller AT

Measured: the CIFAR-10 table in README.md, by `python -m studies.cifar10_cpu`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Batch, rate and augmentation of configs/cifar10.py, with a short cosine schedule."""
    c = ConfigDict()
    c.dataset = "CIFAR10"
    c.teacher_arch = "ResNet20"
    c.student_arch = "ResNet8"
    c.train_epoch = 6
    c.batch_size = 128
    c.learning_rate = 0.1
    c.nesterov = True
    c.weight_decay = 5e-4
    c.schedule = "cosine"
    c.crop_mode = "reflect"
    c.log_every = 130
    return c
