"""A player: a network in a role, with the input statistics that belong to its weights."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.outputs import Outputs, forward


@dataclasses.dataclass(frozen=True)
class Player:
    """A network in a role, with the input statistics of its training.

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

    def look(self, variables: dict, batch, views: int = 1, **options) -> tuple[Outputs, dict]:
        """`forward` on the first `views` views of a batch, one pass each.

        Returns:
            (`Outputs` of the first view, with those of the others in `views`; the batch statistics after all passes).
        """
        outputs = []
        for image in (batch.image, *batch.views)[:views]:
            answer, stats = self.forward(variables, image, **options)
            variables = {**variables, "batch_stats": stats}
            outputs.append(answer)
        return outputs[0].replace(views=tuple(outputs[1:])), stats
