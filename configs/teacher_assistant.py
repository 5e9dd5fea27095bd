r"""Teacher assistants: a network of middle size learns from the teacher and then teaches the student.

Paper: Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh. Improved Knowledge Distillation via Teacher Assistant.
AAAI 2020. arXiv:1902.03393.

If a teacher is far larger than its student, the student learns more from a smaller teacher. ResNet-110 to ResNet-20 to
ResNet-8 on CIFAR-100 is two runs of plain distillation, each in the setting of configs/cifar100.py:

    python train_teacher.py --config configs/teacher_assistant.py --arch ResNet110 --train_path runs/teacher
    python train_w_kd.py --config configs/teacher_assistant.py --student_arch ResNet20 --teacher_param runs/teacher \
        --train_path runs/assistant
    python train_w_kd.py --config configs/teacher_assistant.py --student_arch ResNet8 --teacher_param runs/assistant \
        --train_path runs/student

The student without the assistant is the baseline: `--student_arch ResNet8 --teacher_param runs/teacher`. A longer
chain needs more commands. The paper tunes weight and temperature for each pair of networks; here all pairs have the
benchmarks' 0.9 and 4.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import cifar100


def get_config() -> ConfigDict:
    """240 epochs of the CIFAR-100 benchmark. The command names the networks."""
    c = cifar100.get_config("SoftLogits")
    del c.teacher_arch, c.student_arch
    return c
