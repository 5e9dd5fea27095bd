"""A network in a role, with the input statistics that belong to its weights."""

import dataclasses
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.outputs import Outputs, forward


@dataclasses.dataclass(frozen=True)
class Player:
    """A network in a role, with the input statistics that it was or will be trained on.

    Attributes:
        name: "student", "teacher", ...
        model: a linen Module.
        mean, std: per channel, of pixels in [0, 1].
    """

    name: str
    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def init(self, key: jax.Array, image: jax.Array) -> dict:
        """Fresh variables `{"params", "batch_stats"}` for images like `image` [B, H, W, C]."""
        variables = self.model.init(key, image[:1])
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def forward(self, variables: dict, image: jax.Array, **options) -> tuple[Outputs, dict]:
        """`models.forward` on `image` [B, H, W, C] in [0, 1], normalised with this player's own statistics."""
        mean, std = jnp.asarray(self.mean, image.dtype), jnp.asarray(self.std, image.dtype)
        return forward(self.model, variables, (image - mean) / std, **options)

    def rngs(self, batch, view: int = 0) -> dict | None:
        """What this network draws from in training, on one view of a batch: for `forward(train=True, rngs=...)`.

        The key follows from the update, the player's name and the view. A network that draws nothing does not read the
        key, and its compiled program does not compute the key.

        Returns:
            `{"dropout": key}`; None where the batch has no key.
        """
        if batch.key is None:
            return None
        own = jax.random.fold_in(batch.key, zlib.crc32(self.name.encode()))
        return {"dropout": jax.random.fold_in(own, view)}

    def look(self, variables: dict, batch, views: int = 1, train: bool = False, **options) -> tuple[Outputs, dict]:
        """`forward` on the first `views` views of a batch, one pass each, in training with random numbers of its own.

        Returns:
            (`Outputs` of the usual view, with the others' in `views`; the batch statistics after all passes).
        """
        outputs = []
        for number, image in enumerate((batch.image, *batch.views)[:views]):
            rngs = self.rngs(batch, number) if train else None
            answer, stats = self.forward(variables, image, train=train, rngs=rngs, **options)
            variables = {**variables, "batch_stats": stats}
            outputs.append(answer)
        return outputs[0].replace(views=tuple(outputs[1:])), stats
