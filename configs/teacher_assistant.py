r"""Teacher assistants: a network of middle size learns from the teacher and then teaches the student.

Paper: Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh. Improved Knowledge Distillation via Teacher Assistant.
AAAI 2020. arXiv:1902.03393.

A student far smaller than its teacher learns less from it than from a smaller one. ResNet-110 to ResNet-20 to ResNet-8
on CIFAR-100 is two runs, each of them plain distillation:

    python train_teacher.py --config configs/teacher_assistant.py --arch ResNet110 --train_path runs/teacher
    python train_w_kd.py --config configs/teacher_assistant.py --student_arch ResNet20 --teacher_param runs/teacher \
        --train_path runs/assistant
    python train_w_kd.py --config configs/teacher_assistant.py --student_arch ResNet8 --teacher_param runs/assistant \
        --train_path runs/student

What it has to beat: the student without the assistant, `--student_arch ResNet8 --teacher_param runs/teacher`. A longer
chain has more commands. The paper tunes weight and temperature for each pair of networks; here they are the benchmarks'
(0.9, 4) throughout, and so is the recipe.

Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """240 epochs of the CIFAR-100 benchmark."""
    c = ConfigDict()
    c.dataset = "CIFAR100"
    c.distiller = "SoftLogits"
    c.train_epoch = 240
    c.batch_size = 64
    c.learning_rate = 0.05
    c.schedule = "step"
    c.milestones = (0.625, 0.75, 0.875)
    c.decay_factor = 0.1
    return c
