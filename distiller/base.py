"""The base class of all methods: a linen Module with two weights, of its own loss and of the label loss."""

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from models import Outputs
from options import not_negative


class Distiller(nn.Module):
    """A distillation loss.

    Subclasses define `__call__(self, student, teacher, batch) -> (loss, terms)`. `student` and `teacher` are
    `models.Outputs`, the teacher's behind `stop_gradient`; `batch` is a `data.Batch`. Connectors (learned layers that
    match shapes) are submodules made in the call. Memory is `self.variable("memory", ...)`. Random numbers are drawn
    with `self.make_rng("method")`.

    Attributes:
        weight: multiplies the method's loss.
        ce_weight: weight of the cross-entropy on labels. The training step adds this cross-entropy; a method never
            does.
        gradient_taps: names of the features (or "input") of student and teacher whose gradients the method reads.
        views: the views of each image that the method reads, as named in `data.make_batch`. The first is "weak", the
            usual augmentation. Further ones are "weak" (another draw), "strong" (RandAugment on top) or "partner"
            (another image of the class). `student.views` and `teacher.views` hold the networks' Outputs for the further
            views.
        least_batch: smallest number of examples in a batch with which every term of the method teaches something. A
            method that compares examples needs more than 1.
        order_matters: the loss depends on the order of the examples in the batch.
        needs_labels: without labels the method teaches nothing, or nothing after its first phase.
        first_phase_learns: what learns in the first phase (`first_phase_epochs`): "student", "method" or both.
        adversarial: the method's own parameters maximise the loss, by a reversed gradient.
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
        """Number of epochs of a first phase before the main training. The first phase has no label loss.

        The main training starts with a new optimizer. AB, FSP and FT have a first phase: they initialise the student,
        or train a part of the method first. They return `warmup_epochs` here and choose their loss by `batch.epoch`.
        """
        return 0

    @nn.nowrap
    def label_outputs(self, student: Outputs) -> Outputs:
        """Returns the outputs whose logits the label loss reads: by default the student's outputs.

        DeiT overrides this method: its student has one head for labels and one for the teacher, and DeiT returns the
        logits of the first head.
        """
        return student


def wide(x: jax.Array) -> jax.Array:
    """Converts `x` to float32, the type in which losses are computed; float64 stays float64."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def matched(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Converts two arrays of the same shape by `wide`.

    Raises:
        ValueError: the shapes differ (broadcasting would hide the mistake).
    """
    if student.shape != teacher.shape:
        raise ValueError(f"The student's {student.shape} and the teacher's {teacher.shape} differ in shape.")
    return wide(student), wide(teacher)
