"""Mixup and CutMix on the device: each image is mixed with another image of its batch.

Papers: Zhang, Cisse, Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk Minimization. ICLR 2018. arXiv:1710.09412.
Yun, Han, Oh, Chun, Choe, Yoo. CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.
ICCV 2019. arXiv:1905.04899.

The other image is the previous row's; the first row takes the last row's. An epoch's order is a fresh shuffle, so
neighbours are random, and no image is mixed with itself. Each row has its own share (the papers' code has one a batch).

The row's own image always makes up half of the result or more. If a draw gives it less, the two images exchange their
parts. The pairs are random, so the exchange does not change the distribution of the results. `label` and `index`
therefore belong to the larger part.
"""

import jax
import jax.numpy as jnp

from data.dataset import Augmentation

CHOICE, SHARE, BOX = 16, 17, 18  # numbers that a row's key is folded with


def mixing_weights(
    keys: jax.Array, how: Augmentation, height: int, width: int
) -> tuple[jax.Array, jax.Array] | tuple[None, None]:
    """The weight of the row's own image in each pixel.

    Args:
        keys: [B] typed random keys.
        how: static; with both `mixup` and `cutmix`, each row gets one of them, with equal probability.
        height, width: static.

    Returns:
        (weight [B, H, W, 1] float32 in [0, 1]: constant for mixup, 0 or 1 for CutMix;
        share [B] float32 in [0.5, 1]: the mean of the weight). (None, None) where nothing is mixed.
    """
    found = []
    if how.mixup:
        share = _beta(keys, how.mixup)
        share = jnp.maximum(share, 1 - share)
        found.append((jnp.broadcast_to(share[:, None, None], (len(share), height, width)), share))
    if how.cutmix:
        centres = _draw(keys, BOX, lambda k: jax.random.randint(k, (2,), 0, jnp.array([height, width])))
        found.append(cutmix_weights(_beta(keys, how.cutmix), centres, height, width))
    if not found:
        return None, None
    weight, share = found[0]
    if len(found) == 2:
        second = _draw(keys, CHOICE, lambda k: jax.random.bernoulli(k))
        weight = jnp.where(second[:, None, None], found[1][0], weight)
        share = jnp.where(second, found[1][1], share)
    return weight[..., None], share


def cutmix_weights(draw: jax.Array, centres: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """1 where a pixel is the row's own, 0 where it is the other image's.

    The box has sqrt(1 - draw) times the height and the width. It lies around its centre and is cut off at the border,
    as in the paper. The other image fills the box, or the outside of a box with more than half of the pixels.

    Args:
        draw: [B] float32 in [0, 1].
        centres: [B, 2] int32, row and column of the box's centre.

    Returns:
        (weight [B, H, W] float32, 0 or 1; share [B] float32 in [0.5, 1]).
    """
    size = jnp.array([height, width], jnp.int32)
    half = jnp.floor(size.astype(jnp.float32) * jnp.sqrt(1 - draw)[:, None]).astype(jnp.int32) // 2
    low, high = jnp.clip(centres - half, 0, size), jnp.clip(centres + half, 0, size)
    rows, columns = jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32)
    inside = ((rows >= low[:, :1]) & (rows < high[:, :1]))[:, :, None]
    inside = inside & ((columns >= low[:, 1:]) & (columns < high[:, 1:]))[:, None, :]
    area = jnp.prod(high - low, axis=1)
    larger = 2 * area > height * width
    area = jnp.where(larger, height * width - area, area)
    weight = (inside == larger[:, None, None]).astype(jnp.float32)
    return weight, 1 - area.astype(jnp.float32) / (height * width)


def mix(images: jax.Array, weight: jax.Array) -> jax.Array:
    """Images [B, H, W, C] float32, each mixed with the image of the previous row by `weight` [B, H, W, 1]."""
    return weight * images + (1 - weight) * other(images)


def other(rows: jax.Array) -> jax.Array:
    """`rows` moved by one: row i gets the entry of row i - 1, with which it is mixed."""
    return jnp.roll(rows, 1, axis=0)


def _draw(keys, stream, draw):
    return jax.vmap(lambda k: draw(jax.random.fold_in(k, stream)))(keys)


def _beta(keys, alpha):
    """[B] draws of Beta(alpha, alpha); alpha 1 is the uniform distribution."""
    if alpha == 1:
        return _draw(keys, SHARE, lambda k: jax.random.uniform(k))
    return _draw(keys, SHARE, lambda k: jax.random.beta(k, alpha, alpha))
