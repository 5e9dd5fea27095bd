"""A program that is compiled with few optimisations is the same program."""

import jax
import jax.numpy as jnp

from training import cpu


def test_a_program_that_runs_once_gives_the_same_numbers():
    def function(key):
        x = jax.random.normal(key, (8, 8))
        return x, jnp.linalg.svd(x)[1], jax.nn.softmax(x @ x)

    found, expected = (jit(function)(jax.random.key(0)) for jit in (cpu.jit_once, jax.jit))
    for one, other in zip(found, expected, strict=True):
        assert jnp.allclose(one, other, atol=1e-5)
