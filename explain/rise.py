"""RISE: the class's probability where random parts of the image are hidden; the network is a black box.

    map(h, w) = sum_n p_k(x * m_n) m_n(h, w) / (N keep)

Paper: Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.
arXiv:1806.07421.

m_n: a grid x grid pattern of which each cell is open with probability `keep`, enlarged bilinearly and shifted at random
by up to a cell. All images see the same masks. x is normalised, so what is hidden becomes the mean colour.
The paper takes 4,000 to 8,000 masks at 224 pixels; the default here is for small images.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, wide
from explain.gradients import positive
from registry import UserError


def random_masks(key: jax.Array, count: int, size: tuple[int, int], grid: int, keep: float) -> jax.Array:
    """[count, H, W] float32 in [0, 1], `keep` in the mean."""
    cell = tuple(-(-side // grid) for side in size)
    open_key, shift_key = jax.random.split(key)
    # one cell more than the image has, so that every shift leaves it covered
    cells = jax.random.bernoulli(open_key, keep, (count, grid + 1, grid + 1)).astype(jnp.float32)
    large = jax.image.resize(cells, (count, (grid + 1) * cell[0], (grid + 1) * cell[1]), "bilinear")
    shift = jax.random.randint(shift_key, (count, 2), 0, jnp.asarray(cell, jnp.int32), jnp.int32)
    return jax.vmap(lambda mask, start: jax.lax.dynamic_slice(mask, start, size))(large, shift)


@dataclasses.dataclass(frozen=True)
class RISE(Explanation):
    """How likely the class is when this pixel is seen, over randomly masked images.

    Paper: Petsiuk, Das, Saenko, BMVC 2018, arXiv:1806.07421

    Attributes:
        samples: masks.
        grid: cells a side.
        keep: the probability that a cell is seen.
        seed: of the masks.
        per_pass: masks that go through the network together.
    """

    samples: int = 512
    grid: int = 7
    keep: float = 0.5
    seed: int = 0
    per_pass: int = 128

    def __post_init__(self):
        positive(self, "samples", "grid", "per_pass")
        if not 0 < self.keep < 1:
            raise UserError(f"'keep' of RISE is a probability between 0 and 1; got {self.keep}.")

    def of(self, outputs, target):
        images = outputs.asked().images
        masks = random_masks(jax.random.key(self.seed), self.samples, images.shape[1:3], self.grid, self.keep)
        masks, total = masks.astype(images.dtype), 0.0
        for start in range(0, self.samples, self.per_pass):
            part = masks[start : start + self.per_pass]
            hidden = part[:, None, :, :, None] * images
            logits = outputs.again(hidden.reshape(-1, *images.shape[1:])).logits
            chosen = jnp.tile(target, len(part))[:, None]
            score = jnp.take_along_axis(jax.nn.softmax(wide(logits)), chosen, axis=-1).reshape(len(part), -1)
            total = total + jnp.einsum("nb,nhw->bhw", score, part.astype(score.dtype))
        return total / (self.samples * self.keep)
