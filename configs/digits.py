"""Digits with 100 labels: the setting of the demo, in which distillation has something to give.

The label loss sees 100 class-balanced labelled images; the distillation loss sees all 1,200 training images, which
the teacher was trained on with their labels.

    python train_teacher.py --config configs/digits.py --config.num_labels=0 --train_path runs/digits/teacher
    python train_w_kd.py --config configs/digits.py --teacher_param runs/digits/teacher --distiller SoftLogits

Measured: the demo's table in README.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """396 steps of 64."""
    c = ConfigDict()
    c.dataset = "Digits"
    c.num_labels = 100
    c.teacher_arch = "ResNet20"
    c.student_arch = "ResNet8"
    c.train_epoch = 22
    c.batch_size = 64
    c.learning_rate = 0.05
    c.log_every = 36
    return c


TUNED = {"AT": {"weight": 100.0}}


def tuned(method: str) -> dict:
    """The method's options for 8x8 images."""
    return TUNED.get(method, {})
