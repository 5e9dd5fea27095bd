"""A loop of updates is its updates one after the other, on every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.loops import packing, repeated


def step(frozen, state, totals):
    state = jnp.tanh(jnp.einsum("hwio,i->o", frozen["kernel"], state) + frozen["bias"])
    return state, {"count": totals["count"] + 1, "sum": totals["sum"] + state.sum(), "last": totals["last"] * 0}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_loop_is_its_steps(platform):
    random = np.random.RandomState(0)
    frozen = {"kernel": random.standard_normal((2, 3, 4, 4)).astype(np.float32), "bias": np.ones(4, np.float32)}
    own = jnp.ones(4), {"count": jnp.int32(0), "sum": jnp.float32(0), "last": jnp.float32(7)}
    found = jax.jit(repeated, static_argnums=(0, 5))(step, 3, frozen, *own, platform)
    for _ in range(3):
        own = jax.jit(step)(frozen, *own)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(own), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_equal_leaves_share_an_array():
    tree = {"a": jnp.float32(1), "b": jnp.ones(2), "c": jnp.float32(3), "d": jnp.int32(4)}
    pack, unpack = packing(tree)
    assert sorted(x.shape for x in pack(tree)) == [(1,), (1, 2), (2,)]
    jax.tree.map(np.testing.assert_array_equal, unpack(pack(tree)), tree)
