"""Tiny networks with weights large enough for their maps to differ from one another."""

import types

import jax
import numpy as np
import pytest

import models


def drawn(model, images, seed=4, scale=1.0):
    """Variables of a model from NumPy: deviation 1 / sqrt(inputs), statistics 0 and 1; nothing is compiled."""
    random = np.random.RandomState(seed)

    def fill(path, x):
        kind = path[-1].key
        if kind in ("mean", "var", "scale"):
            return np.full(x.shape, kind != "mean", x.dtype)
        fan_in = max(np.prod(x.shape[:-1]), 1)
        return (scale * random.standard_normal(x.shape) * fan_in**-0.5).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(model.init, jax.random.key(0), images))


@pytest.fixture(scope="session")
def network():
    """Name -> model, variables, images and targets: "ResNet8" at 8x8x3, "ViT" of two blocks at 16x16x3."""
    cache = {}

    def build(name):
        if name not in cache:
            if name.startswith("ViT"):
                shape = {"width": 16, "heads": 2, "depth": 3, "stages": 3, "patch_size": 4}
                model, side, scale = models.create("ViT_Ti", 5, distilled=name == "ViT distilled", **shape), 16, 1.5
            else:
                model, side, scale = models.create(name, 5), 8, 1.0
            images = np.random.RandomState(3).standard_normal((3, side, side, 3)).astype(np.float32)
            variables = drawn(model, images, scale=scale)
            target = np.array([1, 4, 2], np.int32)
            cache[name] = types.SimpleNamespace(model=model, variables=variables, images=images, target=target)
        return cache[name]

    return build
