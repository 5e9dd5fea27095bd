"""What every method is: a linen Module with a weight, and a weight for the labels beside it."""

from typing import ClassVar

import flax.linen as nn


class Distiller(nn.Module):
    """A distillation loss.

    Subclasses define `__call__(self, student, teacher, batch) -> (loss, terms)` with `models.Outputs` twice (the
    teacher's behind `stop_gradient`) and a `data.Batch`. Connectors are submodules made in the call, memory is
    `self.variable("memory", ...)`, random numbers are `self.make_rng("method")`.

    Attributes:
        weight: multiplies the method's loss.
        ce_weight: weight of the cross-entropy on labels, which the training step adds; a method never does.
        gradient_taps: features of student and teacher (or `input`) whose gradients the method asks for.
    """

    weight: float = 1.0
    ce_weight: float = 1.0
    gradient_taps: ClassVar[tuple[str, ...]] = ()
