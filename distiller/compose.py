"""Sums of methods: `create("SoftLogits+AT")`."""

import flax.linen as nn

from distiller.base import Distiller


class Composition(Distiller):
    """The sum of several methods' losses, each with its own weight; `weight` scales the whole.

    Attributes:
        parts: the methods.
    """

    parts: tuple[Distiller, ...] = ()

    @property
    def gradient_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tap for part in self.parts for tap in part.gradient_taps))

    @property
    def order_matters(self) -> bool:
        return any(part.order_matters for part in self.parts)

    @nn.compact
    def __call__(self, student, teacher, batch):
        loss, terms = 0.0, {}
        for part in self.parts:
            part_loss, part_terms = part(student, teacher, batch)
            loss = loss + self.weight * part_loss
            terms.update({name: self.weight * value for name, value in part_terms.items()})
        return loss, terms
