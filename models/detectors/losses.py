"""Losses of detectors, element by element; the caller sums and normalises them. float32.

Papers: Lin, Goyal, Girshick, He, Dollar. Focal Loss for Dense Object Detection. ICCV 2017. arXiv:1708.02002.
Girshick. Fast R-CNN. ICCV 2015. arXiv:1504.08083 (smooth L1).
"""

import jax
import jax.numpy as jnp


def focal(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """a_t (1 - p_t)^gamma times the binary cross-entropy, p_t the probability of the target.

    Args:
        logits: [...].
        targets: the shape of `logits`, in [0, 1].
        alpha: weight a_t of the target 1; that of 0 is 1 - alpha. Negative: both are 1.
        gamma: 0 gives the cross-entropy.

    Returns:
        The shape of `logits`. Finite for any finite logit.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    size = jnp.abs(logits)
    # (|x| + x) / 2 is max(x, 0). The derivative of the sum at 0 is the sigmoid's, whatever JAX takes for that of |x|.
    entropy = (size + logits) / 2 - logits * targets + jnp.log1p(jnp.exp(-size))
    wrong = targets * jax.nn.sigmoid(-logits) + (1 - targets) * jax.nn.sigmoid(logits)
    loss = entropy * wrong**gamma
    return loss if alpha < 0 else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def smooth_l1(x: jax.Array, y: jax.Array, beta: float) -> jax.Array:
    """d^2 / (2 beta) where d = |x - y| is below `beta`, else d - beta / 2. beta = 0: d."""
    difference = x.astype(jnp.float32) - y.astype(jnp.float32)
    distance = difference * jnp.sign(difference)  # with the derivative 0 at 0; that of JAX's |x| is 1
    if beta == 0:
        return distance
    return jnp.where(distance < beta, jnp.square(distance) / (2 * beta), distance - beta / 2)
