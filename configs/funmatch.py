"""FunMatch: the student matches the teacher's function on mixed images, in a very long training without labels.

Paper: Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov. Knowledge distillation: A good teacher is patient and
consistent. CVPR 2022. arXiv:2106.05237.

The paper's setting: the same view for teacher and student (always so here), aggressive crops, mixup with uniform
shares, KL alone at T = 1, Adam with decoupled weight decay, gradients clipped to norm 1, a cosine schedule and, above
all, up to 1200 epochs (ImageNet). The paper's ImageNet runs have batch 4096, learning rate 0.03 and decay 3e-4; its
small datasets have batch 512 and learning rate 0.003, as here. The paper's decay is not multiplied by the learning
rate. AdamW multiplies it, so 3e-4 / 0.003 = 0.1 gives the same decay. Only kernels decay. Two settings are this
recipe's own: crops of at least a quarter of the area (the paper's 5 % would be 7x7 pixels here), and the ramp of 10
epochs.

    python train_teacher.py --config configs/cifar100.py --train_path runs/teacher
    python train_w_kd.py --config configs/funmatch.py --teacher_param runs/teacher

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """1200 epochs."""
    c = ConfigDict()
    c.dataset = "CIFAR100"
    c.teacher_arch = "ResNet56"
    c.student_arch = "ResNet20"
    c.distiller = "SoftLogits"
    c.distiller_options = {"weight": 1.0, "ce_weight": 0.0, "temperature": 1.0}
    c.train_epoch = 1200
    c.batch_size = 512
    c.optimizer = "adamw"
    c.learning_rate = 0.003
    c.ramp_epochs = 10.0
    c.clip_norm = 1.0
    c.weight_decay = 0.1
    c.decay_kernels_only = True
    c.schedule = "cosine"
    c.resized_crop = 0.25
    c.mixup = 1.0
    return c
