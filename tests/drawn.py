"""Draws a network's variables with NumPy. Unlike `model.init`, this compiles nothing."""

import jax
import numpy as np


def drawn(model, images, seed: int, scale: float = 1.0, biases: bool = False):
    """Kernels of deviation `scale` / sqrt(inputs), statistics 0 and 1; biases 0, or on request of deviation `scale`."""
    random = np.random.RandomState(seed)

    def draw(path, x):
        kind = path[-1].key
        if kind in ("mean", "var", "scale") or (kind == "bias" and not biases):
            return np.full(x.shape, kind in ("var", "scale"), x.dtype)
        return (scale * random.standard_normal(x.shape) * max(np.prod(x.shape[:-1]), 1) ** -0.5).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), images))
