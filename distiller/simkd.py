"""SimKD: the teacher's last map, met by the student's projected map; the student classifies with the teacher's weights.

    loss = weight * mean_bhwd (p - f_t)^2,   p the student's projected map, f_t the teacher's last map
    student's logits = W mean_hw p + b,   W, b the teacher's classifier, frozen

Paper: Chen, Mei, Zhang, Wang, Feng, Chen. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022.
arXiv:2203.14001.

There is no label loss (`ce_weight` 0). The projector is a part of the student (`Projected`, models/projected.py), which
has to start with the teacher's classifier and keep it:

    python train_w_kd.py --distiller SimKD --student_arch Projected --config.student_options.backbone=ResNet8 \
        --config.student_options.width=64 --init_head teacher --freeze classifier

`--config configs/cifar100.py:SimKD,TEACHER,STUDENT` sets all of these. If the resolutions differ, the larger map is
average-pooled to the smaller. The authors' code pools a larger map of the student before the projector, also in tests.
Here the network does not know its teacher, so the projected map is pooled, and only in the loss.
"""

from typing import ClassVar

import flax.linen as nn

from distiller.base import Distiller, wide
from distiller.logits import squared_error
from distiller.spatial import match_resolution
from options import not_negative

COMMAND = (
    "Take --student_arch Projected --config.student_options.backbone=NAME --config.student_options.width={} "
    "--init_head teacher --freeze classifier"
)


class SimKD(Distiller):
    """Last map of the teacher, met by the student's projected map; the teacher's classifier is reused.

    Paper: Chen, Mei, Zhang, Wang, Feng, Chen, CVPR 2022, arXiv:2203.14001
    """

    ce_weight: float = not_negative(0.0)
    reuses_classifier: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        if "final" not in teacher.features:
            raise ValueError(
                "SimKD needs a teacher whose embedding is the mean of a map (a tap 'final'); this one has "
                f"{sorted(teacher.features) or 'logits only'}.\nTake a convolutional teacher, or SRRL."
            )
        t = teacher.features["final"]
        if "projected" not in student.features:
            raise ValueError(
                "SimKD teaches a student with a projector (a tap 'projected'); this one has "
                f"{sorted(student.features) or 'logits only'}.\n{COMMAND.format(t.shape[-1])}"
            )
        s = student.features["projected"]
        if s.shape[-1] != t.shape[-1]:
            raise ValueError(
                f"the student's projected map has {s.shape[-1]} channels, and the teacher's last map {t.shape[-1]}.\n"
                f"Give --config.student_options.width={t.shape[-1]}"
            )
        loss = self.weight * squared_error(*match_resolution(wide(s), wide(t)))
        return loss, {"SimKD": loss}
