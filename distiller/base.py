"""The base of all methods: a linen Module with a weight of its loss and a weight of the label loss beside it."""

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from models import Outputs
from options import not_negative


class Distiller(nn.Module):
    """A distillation loss.

    Subclasses define `__call__(self, student, teacher, batch) -> (loss, terms)` with `models.Outputs` twice (the
    teacher's behind `stop_gradient`) and a `data.Batch`. Connectors are submodules made in the call, memory is
    `self.variable("memory", ...)`, random numbers are `self.make_rng("method")`.

    Attributes:
        weight: multiplies the method's loss.
        ce_weight: weight of the cross-entropy on labels, which the training step adds; a method never does.
        gradient_taps: features of student and teacher (or `input`) whose gradients the method reads.
        views: the views of each image that the method reads, as named in `data.make_batch`. The first is "weak", the
            usual augmentation. Further ones are "weak" (another draw), "strong" (RandAugment on top) or "partner"
            (another image of the class). The networks' Outputs for them are `student.views`, `teacher.views`.
        least_batch: examples of a batch from which on each of the method's terms teaches something. A method that
            compares examples needs more than 1.
        order_matters: the loss depends on the order of the examples in the batch.
        needs_labels: without labels the method teaches nothing, or nothing after its first phase.
        first_phase_learns: players that learn in the first phase: "student", "method".
        adversarial: the method's own parameters climb the loss by a reversed gradient.
    """

    weight: float = not_negative(1.0)
    ce_weight: float = not_negative(1.0)
    gradient_taps: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[tuple[str, ...]] = ("weak",)
    least_batch: ClassVar[int] = 1
    order_matters: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    first_phase_learns: ClassVar[tuple[str, ...]] = ("student", "method")
    adversarial: ClassVar[bool] = False

    @property
    def first_phase_epochs(self) -> int:
        """Epochs before the training proper, without a label loss. The optimizer starts afresh after them.

        AB, FSP and FT, which initialise the student or train a part of their own first, return `warmup_epochs` here and
        choose their loss by `batch.epoch`.
        """
        return 0

    @nn.nowrap
    def label_outputs(self, student: Outputs) -> Outputs:
        """The outputs whose logits the label loss reads; by default the student's own.

        DeiT's student has one head for labels and one for the teacher. DeiT returns the logits of the first.
        """
        return student


def wide(x: jax.Array) -> jax.Array:
    """`x` in float32, in which losses are computed; float64 stays."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def matched(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both arrays `wide`.

    Raises:
        ValueError: their shapes differ. Broadcasting would hide the mistake.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"The student's {student.shape} and the teacher's {teacher.shape} differ in shape.")
    return wide(student), wide(teacher)
