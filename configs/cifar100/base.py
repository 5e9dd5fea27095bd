"""CIFAR-100, the recipe of the distillation benchmarks (RepDistiller, mdistiller), ResNet-56 to ResNet-20.

240 epochs, batch 64, SGD 0.05 (no Nesterov), x0.1 at epochs 150, 180, 210, weight decay 5e-4 on everything, zero-pad-4
crop and flip. Published top-1 (RepDistiller, mean of runs, last epoch): teacher 72.34, student 69.06, SoftLogits 70.66,
AT 70.55.

    python train_teacher.py --config configs/cifar100.py --train_path runs/teacher
    python train_w_kd.py --config configs/cifar100.py --teacher_param runs/teacher --distiller SoftLogits

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """240 epochs."""
    c = ConfigDict()
    c.dataset = "CIFAR100"
    c.teacher_arch = "ResNet56"
    c.student_arch = "ResNet20"
    c.train_epoch = 240
    c.batch_size = 64
    c.learning_rate = 0.05
    c.schedule = "step"
    c.milestones = (0.625, 0.75, 0.875)
    c.decay_factor = 0.1
    return c
