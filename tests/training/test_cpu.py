"""Programs with linear algebra of LAPACK's in them are compiled without the tuned kernels, all others with them."""

import jax
import jax.numpy as jnp
import pytest

from training import cpu


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (lambda x: jnp.linalg.eigh(x)[1], True),
        (lambda x: jnp.linalg.svd(x)[0], True),
        (lambda x: jnp.linalg.solve(x, x), True),
        (lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jnp.linalg.qr(y)[0], x), True),
        (lambda x: jax.nn.softmax(x @ x), False),
    ],
)
def test_linear_algebra_is_found_in_a_program(function, refused, monkeypatch):
    jax.devices()  # XLA has read its flags
    monkeypatch.setenv("XLA_FLAGS", f"--{cpu.OPTION}=LIBRARY_FUSION_TYPE_DOT")  # as `tune` would have set them before
    jit, seen = jax.jit, []

    def spy(f, **options):
        seen.append(options.get("compiler_options"))
        return jit(f, **{key: value for key, value in options.items() if key != "compiler_options"})

    monkeypatch.setattr(jax, "jit", spy)
    x = jnp.eye(4) + 0.1
    compiled = cpu.jit(function)
    assert jnp.allclose(compiled(x), function(x), atol=1e-5)
    assert ({cpu.OPTION: ""} in seen) == refused


def test_without_the_flags_nothing_is_looked_for(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(cpu, "LAPACK", None)
    assert cpu.jit(lambda x: 2 * x)(3) == 6


def test_a_program_that_runs_once_gives_the_same_numbers():
    def function(key):
        x = jax.random.normal(key, (8, 8))
        return x, jnp.linalg.svd(x)[1], jax.nn.softmax(x @ x)

    found, expected = (jit(function)(jax.random.key(0)) for jit in (cpu.jit_once, jax.jit))
    for one, other in zip(found, expected, strict=True):
        assert jnp.allclose(one, other, atol=1e-5)
