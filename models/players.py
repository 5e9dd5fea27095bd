"""A network in a role, with the input statistics that belong to its weights."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.outputs import Outputs, forward
from models.view import View


@dataclasses.dataclass(frozen=True)
class Player:
    """A network in a role, with the input statistics that it was or will be trained on.

    Attributes:
        name: "student", "teacher", ...
        model: a linen Module.
        mean, std: per channel, of pixels in [0, 1].
        image_size, resize, interpolation: the size at which the network looks at the images (`View`); 0: their own.
    """

    name: str
    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    _: dataclasses.KW_ONLY
    image_size: int = 0
    resize: int = 0
    interpolation: str = "bilinear"

    @functools.cached_property
    def view(self) -> View:
        """How the network looks at the images."""
        return View(self.image_size, self.resize, self.interpolation)

    def init(self, key: jax.Array, image: jax.Array) -> dict:
        """Fresh variables `{"params", "batch_stats"}` for images like `image` [B, H, W, C]."""
        variables = self.model.init(key, self.view(image[:1]))
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def forward(self, variables: dict, image: jax.Array, **options) -> tuple[Outputs, dict]:
        """`models.forward` on `image` [B, H, W, C] in [0, 1], resized and normalised as this player wants it."""
        image = self.view(image)
        mean, std = jnp.asarray(self.mean, image.dtype), jnp.asarray(self.std, image.dtype)
        return forward(self.model, variables, (image - mean) / std, **options)

    def look(self, variables: dict, batch, views: int = 1, **options) -> tuple[Outputs, dict]:
        """`forward` on the first `views` views of a batch, one pass each.

        Returns:
            (`Outputs` of the usual view, with the others' in `views`; the batch statistics after all passes).
        """
        outputs = []
        for image in (batch.image, *batch.views)[:views]:
            answer, stats = self.forward(variables, image, **options)
            variables = {**variables, "batch_stats": stats}
            outputs.append(answer)
        return outputs[0].replace(views=tuple(outputs[1:])), stats
