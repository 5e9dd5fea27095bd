"""MGD: the mask follows from the example, and what it covers does not reach the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distiller.mgd import Generator, random_mask


@pytest.mark.slow
def test_the_mask_follows_from_the_key_and_the_example():
    key, index = jax.random.key(0), jnp.array([3, 7, 3])
    mask = random_mask(key, index, (1, 1, 2000), 0.15)
    assert mask.shape == (3, 1, 1, 2000)
    assert np.array_equal(mask[0], mask[2])
    assert not np.array_equal(mask[0], mask[1])
    assert abs(1 - mask.mean() - 0.15) < 0.03
    assert not np.array_equal(mask, random_mask(jax.random.key(1), index, (1, 1, 2000), 0.15))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 4, 1)])
def test_a_masked_entry_gets_no_gradient(shape):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    mask = random_mask(jax.random.key(1), jnp.arange(2), shape, 0.5)
    generator = Generator(3)
    variables = generator.init(jax.random.key(2), x, mask)
    gradient = jax.grad(lambda x: jnp.sum(generator.apply(variables, x, mask) ** 2))(x)
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask, x.shape))
