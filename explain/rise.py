"""RISE: the probability of the target class while random parts of the image are hidden.

RISE reads the network's logits only: no features and no gradients.

    map(h, w) = sum_n p_k(x * m_n) m_n(h, w) / (N keep)

Paper: Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.
arXiv:1806.07421.

m_n is a grid x grid pattern. Each cell is open with probability `keep`. The pattern is enlarged bilinearly and shifted
at random by less than a cell. All images have the same masks. x is normalised, so hidden pixels have the mean colour.

Deviation: the paper uses 4,000 to 8,000 masks at 224 pixels; the default here, 512, is for small images.
"""

import dataclasses

import jax
import jax.numpy as jnp

from explain.base import Explanation, wide
from explain.gradients import positive
from registry import UserError


def random_masks(key: jax.Array, count: int, size: tuple[int, int], grid: int, keep: float) -> jax.Array:
    """Draw masks.

    Args:
        key: a JAX key.
        count: number of masks.
        size: (H, W).
        grid: cells along each side.
        keep: probability that a cell is open.

    Returns:
        [count, H, W] float32 in [0, 1] with expectation `keep`.
    """
    cell = tuple(-(-side // grid) for side in size)
    open_key, shift_key = jax.random.split(key)
    # One cell more than the image has: the image lies inside the pattern after every shift.
    cells = jax.random.bernoulli(open_key, keep, (count, grid + 1, grid + 1)).astype(jnp.float32)
    large = jax.image.resize(cells, (count, (grid + 1) * cell[0], (grid + 1) * cell[1]), "bilinear")
    shift = jax.random.randint(shift_key, (count, 2), 0, jnp.asarray(cell, jnp.int32), jnp.int32)
    return jax.vmap(lambda mask, start: jax.lax.dynamic_slice(mask, start, size))(large, shift)


@dataclasses.dataclass(frozen=True)
class RISE(Explanation):
    """Mean probability of the class over those randomly masked images in which this pixel is visible.

    Paper: Petsiuk, Das, Saenko, BMVC 2018, arXiv:1806.07421

    Attributes:
        samples: number of masks.
        grid: cells along each side.
        keep: probability that a cell is open.
        seed: seed of the masks.
        per_pass: masks in one pass through the network.
    """

    samples: int = 512
    grid: int = 7
    keep: float = 0.5
    seed: int = 0
    per_pass: int = 128

    def __post_init__(self):
        positive(self, "samples", "grid", "per_pass")
        if not 0 < self.keep < 1:
            raise UserError(f"'keep' of RISE must be a probability between 0 and 1; got {self.keep}.")

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
