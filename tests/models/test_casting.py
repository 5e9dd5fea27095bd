"""Cast weights give the same bits, and only what a network casts is cast."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import models
from models.casting import cast
from models.folding import fold

SHAPE = (8, 8, 3)


@pytest.mark.parametrize("name", ["CNN", "ViT_Ti"])
def test_a_cast_network_computes_the_same_bits(name):
    options = {"depth": 1, "stages": 1, "patch_size": 4} if name == "ViT_Ti" else {}
    model = models.create(name, 4, dtype=jnp.bfloat16, **options)
    images = np.random.RandomState(0).standard_normal((2, *SHAPE)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    drawn = jax.tree.map(lambda x: np.random.RandomState(1).uniform(0.1, 0.3, x.shape).astype(np.float32), dict(shapes))
    variables = fold(model, drawn, SHAPE)
    found = cast(model, variables, SHAPE)
    run = jax.jit(lambda v: models.forward(model, v, images)[0].logits)
    np.testing.assert_array_equal(run(variables), run(found))
    types = {path: x.dtype for path, x in traverse_util.flatten_dict(found).items()}
    assert set(types.values()) == {np.dtype(jnp.bfloat16), np.dtype(np.float32)}
    assert {types[path] for path in types if path[1] == "classifier"} == {np.dtype(np.float32)}


class Reads(nn.Module):
    """Reads `once` in bfloat16, `twice` in bfloat16 and float32, and returns `result`."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        once, twice, result = (self.param(name, nn.initializers.ones, (3,)) for name in ("once", "twice", "result"))
        return images.astype(jnp.bfloat16) * once.astype(jnp.bfloat16) + twice.astype(jnp.bfloat16), twice + 1, result


def test_what_is_read_in_float32_too_stays_float32():
    variables = {"params": {name: np.ones(3, np.float32) for name in ("once", "twice", "result")}}
    found = cast(Reads(), variables, SHAPE)["params"]
    assert {name: str(x.dtype) for name, x in found.items()} == {
        "once": "bfloat16",
        "twice": "float32",
        "result": "float32",
    }
    assert found["twice"] is variables["params"]["twice"]
