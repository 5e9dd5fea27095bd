"""Sums of methods: `create("SoftLogits+AT")`."""

from collections import Counter

import flax.linen as nn
import jax.numpy as jnp

from distiller.base import Distiller
from models import Outputs


class Composition(Distiller):
    """The sum of several methods' losses. Each loss has its own weight; `weight` scales the sum.

    Each part gets the views that the part declares. The sum has a first phase if a part has one. In this phase only the
    parts with a first phase have a loss, and everything learns that one of these parts names in `first_phase_learns`.

    Attributes:
        parts: the methods.
    """

    parts: tuple[Distiller, ...] = ()

    @property
    def gradient_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for part in self.parts for tap in part.gradient_taps))

    @property
    def views(self) -> tuple[str, ...]:
        further = Counter()
        for part in self.parts:
            further |= Counter(part.views[1:])
        return ("weak", *further.elements())

    @property
    def first_phase_epochs(self) -> int:
        return max((part.first_phase_epochs for part in self.parts), default=0)

    @property
    def first_phase_learns(self) -> tuple[str, ...]:
        learns = (name for part in self.parts if part.first_phase_epochs for name in part.first_phase_learns)
        return tuple(dict.fromkeys(learns))

    @property
    def least_batch(self) -> int:
        return max(part.least_batch for part in self.parts)

    @property
    def order_matters(self) -> bool:
        return any(part.order_matters for part in self.parts)

    @property
    def needs_labels(self) -> bool:
        return any(part.needs_labels for part in self.parts)

    @property
    def adversarial(self) -> bool:
        return any(part.adversarial for part in self.parts)

    @nn.nowrap
    def label_outputs(self, student):
        for part in self.parts:
            student = part.label_outputs(student)
        return student

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss, terms = 0.0, {}
        for part in self.parts:
            _, part_terms = part(*(_seen_by(part, self.views, outputs) for outputs in (student, teacher)), batch)
            for name, value in part_terms.items():
                value = self.weight * value
                if self.first_phase_epochs and not part.first_phase_epochs:
                    value = jnp.where(batch.epoch < self.first_phase_epochs, 0.0, value)
                terms[name] = value
                loss = loss + value
        return loss, terms


def _seen_by(part: Distiller, views: tuple[str, ...], outputs: Outputs) -> Outputs:
    """Returns `outputs` with only those of the sum's further `views` that `part` declares."""
    if not outputs.views:
        return outputs
    left, chosen = list(zip(views[1:], outputs.views, strict=True)), []
    for kind in part.views[1:]:
        place = next(i for i, (name, _) in enumerate(left) if name == kind)
        chosen.append(left.pop(place)[1])
    return outputs.replace(views=tuple(chosen))
